// Asks for the token where the page needs it, and has its buttons work. What there is without a token needs none of this.
"use strict";

const KEY = "forebay-token";

// The page itself, with the token that is in the memory of this tab.
async function load(token) {
  const signal = AbortSignal.timeout(TIMEOUT);
  const authorization = "Bearer " + token;
  const response = await fetch(location.pathname + location.search, {
    headers: { authorization },
    signal,
    cache: "no-store",
  });
  if (response.status === 401) {
    sessionStorage.removeItem(KEY);
    say("This is not the token.");
    document.getElementById("token-note").textContent = "This is not the token.";
    return;
  }
  const page = new DOMParser().parseFromString(await response.text(), "text/html");
  sessionStorage.setItem(KEY, token);
  headers.authorization = authorization;
  document.body.replaceChildren(...page.body.childNodes);
  document.getElementById(location.hash.slice(1))?.scrollIntoView();
}

async function tryToken(token) {
  try {
    await load(token);
  } catch {
    say("forebay does not answer, or the token has a character that no token has.");
  }
}

// Pins an image, or unpins it.
async function act({ action, image }) {
  const note = document.getElementById("image-note");
  const signal = AbortSignal.timeout(TIMEOUT);
  try {
    const response = await fetch("/api/v1/images/" + action, {
      method: "POST",
      headers: { ...headers, "content-type": "application/json" },
      body: JSON.stringify({ match: image }),
      signal,
    });
    const answer = await response.json();
    note.textContent = response.ok ? image + ": " + action + " is done." : answer.error;
  } catch {
    note.textContent = "forebay does not answer.";
  }
  await showImages();
  // A pin may be in force a moment later.
  setTimeout(showImages, INTERVAL);
}

async function showImages() {
  try {
    const signal = AbortSignal.timeout(TIMEOUT);
    const list = await fetch("/page/images" + location.search, { headers, signal, cache: "no-store" });
    if (list.ok) {
      replace(document.getElementById("image-list"), await list.text());
    }
  } catch {
    say("forebay does not answer.");
  }
}

document.addEventListener("submit", (event) => {
  if (event.target.id === "token-form") {
    event.preventDefault();
    tryToken(document.getElementById("token").value.trim());
  }
});

document.addEventListener("click", (event) => {
  if (event.target.id === "forget") {
    sessionStorage.removeItem(KEY);
    location.reload();
  }
  if (event.target.dataset.action) {
    act(event.target.dataset);
  }
});

const form = document.getElementById("token-form");
if (form) {
  form.hidden = false;
  document.getElementById("token-note").hidden = false;
  const token = sessionStorage.getItem(KEY);
  if (token) {
    tryToken(token);
  }
}
