// The second factor as a front end sets it up with the official SDK: node tfa.mjs <url> <email> <password>
// Instead of reading a code from a phone, it prints the secret on stdout and reads the code from stdin.
import assert from "node:assert/strict";
import { createInterface } from "node:readline";
import {
  authentication, createDirectus, disableTwoFactor, enableTwoFactor, generateTwoFactorSecret, readMe, rest,
} from "@directus/sdk";

const [url, email, password] = process.argv.slice(2);
const lines = createInterface({ input: process.stdin })[Symbol.asyncIterator]();
const codeOf = async (secret) => {
  console.log(JSON.stringify({ secret }));
  return (await lines.next()).value;
};
const client = () => createDirectus(url).with(authentication("json")).with(rest());
const refusal = async (promise) => {
  try {
    await promise;
  } catch (error) {
    return error.errors[0].extensions.code;
  }
  return null;
};

const first = client();
await first.login({ email, password });
const { secret, otpauth_url } = await first.request(generateTwoFactorSecret(password));
assert.match(secret, /^[A-Z2-7]{32}$/);
assert.ok(otpauth_url.startsWith("otpauth://totp/"));
await first.request(enableTwoFactor(secret, await codeOf(secret)));

assert.equal(await refusal(client().login({ email, password })), "INVALID_OTP");
assert.equal(await refusal(client().login({ email, password }, { otp: "000000" })), "INVALID_OTP");
const second = client();
await second.login({ email, password }, { otp: await codeOf(secret) });
assert.equal((await second.request(readMe())).email, email);
await second.refresh();
await second.request(disableTwoFactor(await codeOf(secret)));

const third = client();
await third.login({ email, password });
assert.equal((await third.request(readMe())).tfa_enabled, false);
console.log(JSON.stringify({ done: true }));
process.exit(0);
