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

// A removal may wait for the disk, and a refresh for the registry.
const ACTION_TIMEOUT = 120000;

function request({ action, image }) {
  const signal = AbortSignal.timeout(ACTION_TIMEOUT);
  if (action === "remove") {
    const path = "/api/v1/images?match=" + encodeURIComponent(image);
    return fetch(path, { method: "DELETE", headers, signal });
  }
  const body = JSON.stringify({ match: image });
  const typed = { ...headers, "content-type": "application/json" };
  return fetch("/api/v1/images/" + action, { method: "POST", headers: typed, body, signal });
}

// What became of the image: a document says it, or an event in a stream.
async function outcome(response, action) {
  const text = await response.text();
  if (!response.ok) {
    return JSON.parse(text).error;
  }
  const event = text.split("\n\n").find((event) => event.startsWith("event: image\n"));
  if (!event) {
    return action + " is done";
  }
  const { result, problem } = JSON.parse(event.split("\ndata: ")[1]);
  return result + (problem ? ", " + problem : "");
}

// Does what a button says to its image, and shows the images anew.
async function act({ action, image }) {
  if (action === "remove" && !confirm("Remove " + image + " from the cache?")) {
    return;
  }
  const note = document.getElementById("image-note");
  note.textContent = image + ": …";
  try {
    note.textContent = image + ": " + (await outcome(await request({ action, image }), action)) + ".";
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
  const { action } = event.target.dataset;
  if (action) {
    act({ action, image: event.target.closest("[data-image]").dataset.image });
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
