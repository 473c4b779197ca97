// What came of an action, in words, for as long as it is true and news.

import { visible } from "./words.js";

const DONE_MS = 10_000;
const REFUSED_MS = 30_000;

/** Messages after which something else is on air than before, so that why an action was refused is old news. */
const CHANGES = ["new_broadcast", "broadcast_cleared", "resync"];
/** Messages that say more of a broadcast than that it was sent. */
const MORE = ["broadcast_cleared", "acknowledged", "broadcast_acknowledged"];

export class Outcome {
  #line;
  #timer = 0;
  /** The broadcast that a success is about. */
  #about = null;
  /** Whether that broadcast was sent, rather than cleared. */
  #isSent = false;
  #refusal = null;

  /** Shows itself in an element. */
  constructor(line) {
    this.#line = line;
  }

  sent(words, id) {
    this.#show(words, "done", DONE_MS);
    this.#about = id;
    this.#isSent = true;
  }

  cleared(words, id) {
    this.#show(words, "done", DONE_MS);
    this.#about = id;
  }

  refused(refusal) {
    const again = refusal.unknown ? " Try again: it takes effect only once." : "";
    this.#show(refusal.message + again, "refused", stays(refusal) ? null : REFUSED_MS);
    this.#refusal = refusal;
  }

  /** What the connection said. */
  hear({ type, broadcast, broadcast_id: id }) {
    if (this.#about) {
      const isReplaced = type === "new_broadcast" && broadcast.id !== this.#about;
      const isMore = this.#isSent && MORE.includes(type) && id === this.#about;
      if (isReplaced || isMore || type === "resync") this.drop();
    } else if (CHANGES.includes(type) && !stays(this.#refusal)) {
      this.drop();
    }
  }

  /** The text was changed, so that what was wrong with it may be no more. */
  edited() {
    if (!this.#about) this.drop();
  }

  /** The service answers. Whether it did what it was asked before is still unknown. */
  recovered() {
    if (!this.#refusal?.unreachable) return;
    this.#show("The service answers again. Try once more: it takes effect only once.", "", REFUSED_MS);
  }

  drop() {
    this.#show("", "", null);
  }

  #show(words, tone, forMs) {
    clearTimeout(this.#timer);
    this.#about = this.#refusal = null;
    this.#isSent = false;
    this.#line.textContent = visible(words);
    this.#line.dataset.tone = tone;
    if (forMs) this.#timer = setTimeout(() => this.drop(), forMs);
  }
}

/** Without an answer, a refusal stays until there is one; and what is wrong with a text until the text is changed. */
function stays(refusal) {
  return Boolean(refusal) && (refusal.unreachable || /^(message|body)_/.test(refusal.code ?? ""));
}
