"use strict";
// A page on the same site: mode "session" keeps both tokens in HttpOnly cookies, where no script can read them.

const $ = (id) => document.getElementById(id);
const fields = (form) => Object.fromEntries([...new FormData(form)].filter(([, value]) => value !== ""));

async function call(method, path, body) {
  const response = await fetch(path, {
    method,
    headers: body ? { "Content-Type": "application/json" } : {},
    body: body && JSON.stringify(body),
  });
  const answer = response.status === 204 ? null : await response.json();
  if (!response.ok) throw Object.assign(new Error(answer.errors[0].message), answer.errors[0].extensions);
  return answer;
}

// An access token is valid for minutes. If it has expired, or its key was changed, refresh once and try again.
async function callSignedIn(method, path, body) {
  try {
    return await call(method, path, body);
  } catch (error) {
    if (!["TOKEN_EXPIRED", "INVALID_TOKEN"].includes(error.code)) throw error;
    await call("POST", "/auth/refresh", { mode: "session" });
    return call(method, path, body);
  }
}

function say(text) {
  $("message").textContent = text;
  $("message").hidden = !text;
}

async function show() {
  let user = null;
  try {
    user = (await callSignedIn("GET", "/users/me")).data;
    const notes = await callSignedIn("GET", "/api/notes");
    $("notes").replaceChildren(...notes.map((note) => Object.assign(document.createElement("li"), { textContent: note.text })));
    $("who").textContent = user.email;
  } catch (error) {
    if (!["INVALID_CREDENTIALS", "INVALID_TOKEN", "INVALID_PAYLOAD"].includes(error.code)) say(error.message);
  }
  $("signed-in").hidden = !user;
  $("signed-out").hidden = Boolean(user);
}

function on(id, event, action) {
  $(id).addEventListener(event, async (happened) => {
    happened.preventDefault();
    say("");
    try {
      await action(happened.target);
    } catch (error) {
      say(error.message);
    }
  });
}

on("login", "submit", async (form) => {
  await call("POST", "/auth/login", { ...fields(form), mode: "session" });
  form.reset();
  await show();
});
on("provider-otp", "submit", async (form) => {
  const provider = encodeURIComponent(new URLSearchParams(location.search).get("provider"));
  await call("POST", `/auth/oauth/${provider}/otp`, { ...fields(form), mode: "session" });
  history.replaceState(null, "", "/");
  form.hidden = true;
  await show();
});
on("new-note", "submit", async (form) => {
  await callSignedIn("POST", "/api/notes", fields(form));
  form.reset();
  await show();
});
on("refresh", "click", async () => {
  await call("POST", "/auth/refresh", { mode: "session" });
  say("Refreshed: both cookies have been replaced.");
});
on("logout", "click", async () => {
  await call("POST", "/auth/logout", { mode: "session" });
  await show();
});

async function showProviders() {
  const { data } = await call("GET", "/auth/");
  for (const { name, label } of data) {
    const link = document.createElement("a");
    const back = `/?provider=${encodeURIComponent(name)}`;
    link.href = `/auth/oauth/${encodeURIComponent(name)}?redirect=${encodeURIComponent(back)}`;
    link.className = "button";
    link.textContent = `Log in with ${label}`;
    $("providers").append(link, " ");
  }
}

// After a failed provider login, the browser comes back with a reason.
const reason = new URLSearchParams(location.search).get("reason");
if (reason === "INVALID_OTP") $("provider-otp").hidden = false;
else if (reason) say(`Login failed: ${reason}`);
showProviders();
show();
