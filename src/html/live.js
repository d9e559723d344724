// Keeps parts of a page up to date: each element with data-live is filled anew from the path there. The page works without
// this.
"use strict";

const INTERVAL = 3000;
const TIMEOUT = 10000;

// What the requests of the page carry. The admin page adds its token.
const headers = {};

function say(text) {
  const status = document.getElementById("status");
  if (status && status.textContent !== text) {
    status.textContent = text;
  }
}

// Whether a person is selecting something there.
function isSelected(element) {
  const selection = window.getSelection();
  return !selection.isCollapsed && element.contains(selection.anchorNode);
}

function replace(element, html) {
  const focused = element.contains(document.activeElement) ? document.activeElement.id : "";
  const page = new DOMParser().parseFromString(html, "text/html");
  element.replaceChildren(...page.body.childNodes);
  if (focused) {
    document.getElementById(focused)?.focus({ preventScroll: true });
  }
  // What a person would look for is also said to one who listens.
  const news = element.querySelector("[data-say]")?.dataset.say ?? "";
  if (element.news !== undefined && news && news !== element.news) {
    say(news);
  }
  element.news = news;
}

async function refresh(element) {
  if (isSelected(element)) {
    return;
  }
  try {
    const signal = AbortSignal.timeout(TIMEOUT);
    const response = await fetch(element.dataset.live, { headers, signal, cache: "no-store" });
    if (response.status === 401) {
      // Another token is needed: the page itself asks for it.
      location.reload();
      return;
    }
    if (!response.ok) {
      throw new Error(response.statusText);
    }
    replace(element, await response.text());
    element.classList.remove("stale");
  } catch {
    element.classList.add("stale");
    say("forebay does not answer.");
  }
}

async function keepLive() {
  for (;;) {
    await new Promise((resolve) => setTimeout(resolve, INTERVAL));
    if (!document.hidden) {
      await Promise.all([...document.querySelectorAll("[data-live]")].map(refresh));
    }
  }
}

for (const element of document.querySelectorAll("[data-live]")) {
  element.news = element.querySelector("[data-say]")?.dataset.say ?? "";
}
keepLive();
