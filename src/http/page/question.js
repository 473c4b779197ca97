// A question before something that cannot be taken back. Escape and the first button say no.

import { message } from "./words.js";

const dialog = document.getElementById("question");
const part = (name) => document.getElementById(`question-${name}`);

/** Resolves to whether the answer was yes. `quote` is the text that it is about, `type` its type. */
export function ask({ title, words, quote, type, yes, no }) {
  part("title").textContent = title;
  part("words").textContent = words;
  part("quote").textContent = message(quote);
  part("quote").dataset.type = type;
  part("yes").textContent = yes;
  part("no").textContent = no;
  dialog.returnValue = "";
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => resolve(dialog.returnValue === "yes"), { once: true });
  });
}

/** Takes the question back: what it was about is no more. */
export function withdraw() {
  dialog.close("");
}

part("yes").addEventListener("click", () => dialog.close("yes"));
part("no").addEventListener("click", () => dialog.close(""));
