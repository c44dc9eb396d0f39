// Run one official client of this API against the example site: `node run.mjs SCENARIO CLIENT MODE`.
// SITE is its base URL, EMAIL and PASSWORD an account, OUTBOX the folder with its emails. Exits with 0 on success.
import assert from "node:assert/strict";
import { createHmac } from "node:crypto";
import { readdirSync, readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { setTimeout as sleep } from "node:timers/promises";

const { SITE, EMAIL, PASSWORD, OUTBOX } = process.env;
const [scenario, clientName, mode] = process.argv.slice(2);

// Node has no cookie jar. This one is enough for one site, and counts requests.
const jar = new Map();
const calls = [];
const cookies = () => [...jar].map(([name, value]) => `${name}=${value}`).join("; ");
function keep(setCookies) {
  for (const line of setCookies ?? []) {
    const [, name, value] = line.match(/^([^=]+)=([^;]*)/);
    assert.match(line, /HttpOnly/i, "a cookie that scripts can read");
    if (/Max-Age=0(;|$)/i.test(line)) jar.delete(name);
    else jar.set(name, value);
  }
}
async function fetchWithCookies(url, options = {}) {
  const headers = new Headers(options.headers);
  if (options.credentials === "include" && jar.size) headers.set("Cookie", cookies());
  calls.push(new URL(url).pathname);
  const response = await fetch(url, { ...options, headers });
  if (options.credentials === "include") keep(response.headers.getSetCookie());
  return response;
}
function withCookies(axios) {
  axios.interceptors.request.use((config) => {
    if (jar.size) config.headers.Cookie = cookies();
    calls.push(config.url);
    return config;
  });
  const note = (response) => (keep(response.headers["set-cookie"]), response);
  axios.interceptors.response.use(note, (error) => {
    if (error.response) note(error.response);
    throw error;
  });
}

// One interface for the three clients. `token` is what the client sends in its Authorization header; null in mode session.
const clients = {
  async sdk() {
    const sdk = await import("@directus/sdk");
    const client = sdk
      .createDirectus(SITE, { globals: { fetch: fetchWithCookies } })
      .with(sdk.authentication(mode, { credentials: "include", autoRefresh: false }))
      .with(sdk.rest({ credentials: "include" }));
    return {
      login: (email, password, otp) => client.login({ email, password }, otp ? { otp } : {}),
      refresh: () => client.refresh(),
      logout: () => client.logout(),
      token: () => client.getToken(),
      notes: () => client.request(sdk.customEndpoint({ path: "/api/notes" })),
      me: () => client.request(sdk.readMe()),
      providers: () => client.request(sdk.readProviders()),
      generate: async (password) => (await client.request(sdk.generateTwoFactorSecret(password))).secret,
      enable: (secret, otp) => client.request(sdk.enableTwoFactor(secret, otp)),
      disable: (otp) => client.request(sdk.disableTwoFactor(otp)),
      requestReset: (email) => client.request(sdk.passwordRequest(email)),
      reset: (token, password) => client.request(sdk.passwordReset(token, password)),
      codeOf: (error) => error.errors[0].extensions.code,
    };
  },
  async "sdk-10"() {
    const { Directus } = await import("@directus/sdk-10");
    const client = new Directus(SITE, { auth: { mode, autoRefresh: true } });
    withCookies(client.transport.axios);
    return {
      login: (email, password, otp) => client.auth.login({ email, password, ...(otp && { otp }) }),
      refresh: () => client.auth.refresh(),
      logout: () => client.auth.logout(),
      token: () => client.auth.token,
      notes: async () => (await client.transport.get("/api/notes")).raw,
      me: () => client.users.me.read(),
      generate: async (password) => (await client.users.me.tfa.generate(password)).secret,
      enable: (secret, otp) => client.users.me.tfa.enable(secret, otp),
      disable: (otp) => client.users.me.tfa.disable(otp),
      requestReset: (email) => client.auth.password.request(email),
      reset: (token, password) => client.auth.password.reset(token, password),
      // The error of a refresh before a call is wrapped.
      codeOf: (error) => (error.errors[0] ?? error.parent.errors[0]).extensions.code,
    };
  },
  async "sdk-js"() {
    const { default: DirectusSDK } = await import("@directus/sdk-js");
    const client = new DirectusSDK(SITE, { auth: { mode } });
    withCookies(client.axios);
    return {
      login: (email, password, otp) => client.auth.login({ email, password, ...(otp && { otp }) }),
      refresh: () => client.auth.refresh(false),
      logout: () => client.auth.logout(),
      token: () => client.auth.token,
      notes: async () => (await client.axios.get("/api/notes")).data,
      me: async () => (await client.users.me.read()).data,
      requestReset: (email) => client.auth.password.request(email),
      reset: (token, password) => client.auth.password.reset(token, password),
      codeOf: (error) => error.response.data.errors[0].extensions.code,
    };
  },
};
const client = await clients[clientName]();

async function refuses(promise, ...codes) {
  await assert.rejects(promise, (error) => {
    assert.ok(codes.includes(client.codeOf(error)), String(error));
    return true;
  });
}

async function notesWith(token) {
  const headers = mode === "session" ? { Cookie: token } : { Authorization: `Bearer ${token}` };
  return (await fetch(`${SITE}/api/notes`, { headers })).status;
}

function oneTimePassword(secret, at = Date.now()) {
  const bits = [...secret].map((c) => "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567".indexOf(c).toString(2).padStart(5, "0")).join("");
  const key = Buffer.from(bits.match(/.{8}/g).map((byte) => parseInt(byte, 2)));
  const counter = Buffer.alloc(8);
  counter.writeBigUInt64BE(BigInt(Math.floor(at / 30000)));
  const digest = createHmac("sha1", key).update(counter).digest();
  const number = digest.readUInt32BE(digest[19] & 15) & 0x7fffffff;
  return String(number % 1_000_000).padStart(6, "0");
}

async function tokenOfMail() {
  for (let attempt = 0; attempt < 600; attempt++) {
    const mails = readdirSync(OUTBOX, { withFileTypes: true }).filter((entry) => entry.isFile());
    for (const { name } of mails) {
      // Decode quoted-printable, if the email uses it.
      const text = readFileSync(`${OUTBOX}/${name}`, "utf8").replace(/=\r?\n/g, "").replace(/=3D/g, "=");
      // A line of hyphens ends the email.
      const found = /-{79}\n$/.test(text) && text.includes(EMAIL) && text.match(/[?&]token=([\w.-]+)/);
      if (found) return found[1];
    }
    await sleep(100);
  }
  throw new Error("no mail came");
}

const scenarios = {
  async "log in, refresh, call, log out"() {
    await refuses(client.login(EMAIL, "wrong"), "INVALID_CREDENTIALS");
    await client.login(EMAIL, PASSWORD);
    assert.equal((await client.notes()).length, 3);
    assert.equal((await client.me()).email, EMAIL);

    const before = mode === "session" ? cookies() : await client.token();
    assert.equal(jar.size, { json: 0, cookie: 1, session: 2 }[mode]);
    await client.refresh();
    const after = mode === "session" ? cookies() : await client.token();
    assert.ok(after);
    assert.notEqual(after, before);
    assert.equal((await client.notes()).length, 3);

    await client.logout();
    assert.equal(jar.size, 0);
    assert.equal(await notesWith(after), 401);
    assert.equal(await notesWith(before), 401);
    // 10.3.5 tries to refresh without a token before the call.
    await refuses(client.notes(), "INVALID_CREDENTIALS", ...(clientName === "sdk-10" ? ["INVALID_PAYLOAD"] : []));
    if (client.providers) assert.deepEqual(await client.providers(), []);
  },

  async "refreshes of ten calls"() {
    await client.login(EMAIL, PASSWORD);
    for (let n = 0; n < 10; n++) await client.notes();
    console.log(calls.filter((path) => path.endsWith("/auth/refresh")).length);
  },

  async "second factor"() {
    await client.login(EMAIL, PASSWORD);
    await refuses(client.generate("wrong"), "INVALID_CREDENTIALS");
    const secret = await client.generate(PASSWORD);
    const wrong = oneTimePassword(secret, 0);
    await refuses(client.enable(secret, wrong), "INVALID_OTP");
    // The code of the previous step is valid until the current step ends.
    const left = 30_000 - (Date.now() % 30_000);
    if (left < 10_000) await sleep(left);
    const now = Date.now();
    await client.enable(secret, oneTimePassword(secret, now - 30_000));
    assert.equal((await client.me()).tfa_enabled, true);
    await client.logout();

    await refuses(client.login(EMAIL, PASSWORD), "INVALID_OTP");
    await refuses(client.login(EMAIL, PASSWORD, wrong), "INVALID_OTP");
    await client.login(EMAIL, PASSWORD, oneTimePassword(secret, now));
    await client.disable(oneTimePassword(secret, now + 30_000));
    assert.equal((await client.me()).tfa_enabled, false);
    await client.logout();
  },

  async "password reset"() {
    const changed = "three-quiet-otters-swim";
    await client.requestReset("nobody@example.com");
    await client.requestReset(EMAIL);
    const token = await tokenOfMail();
    await refuses(client.reset(token, "password"), "FAILED_VALIDATION");
    await client.reset(token, changed);
    await refuses(client.reset(token, changed), "INVALID_TOKEN");
    await refuses(client.login(EMAIL, PASSWORD), "INVALID_CREDENTIALS");
    await client.login(EMAIL, changed);
    assert.equal((await client.notes()).length, 3);
    await client.logout();
  },
};
await scenarios[scenario]();
