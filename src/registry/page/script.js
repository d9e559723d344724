// Gives each snippet a button that copies it. The page works without this.
"use strict";

function select(node) {
  const range = document.createRange();
  range.selectNodeContents(node);
  const selection = window.getSelection();
  selection.removeAllRanges();
  selection.addRange(range);
}

async function copy(code) {
  // Browsers have a clipboard over TLS and on this machine only.
  if (navigator.clipboard) {
    try {
      await navigator.clipboard.writeText(code.textContent);
      return true;
    } catch {
      // The other way may be allowed.
    }
  }
  select(code);
  return document.execCommand("copy");
}

for (const figure of document.querySelectorAll("figure")) {
  const caption = figure.querySelector("figcaption");
  const code = figure.querySelector("code");
  const button = document.createElement("button");
  const show = (text) => {
    button.textContent = text;
    button.setAttribute("aria-label", text + " " + caption.textContent);
  };
  button.type = "button";
  show("Copy");
  button.addEventListener("click", async () => {
    const copied = await copy(code);
    show(copied ? "Copied" : "Selected");
    say(copied ? "Copied." : "The text is selected.");
    setTimeout(() => {
      show("Copy");
      say("");
    }, 2000);
  });
  caption.after(button);
}
