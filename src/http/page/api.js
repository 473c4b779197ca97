// The REST interface of one channel, as its creator calls it.

/** Longer than the service itself waits for its log, so that its own answer comes first. */
const PATIENCE_MS = 15_000;

/** Why a request was refused, or got no answer. Its message is for people. */
export class Refusal extends Error {
  /**
   * `unknown`: it may have happened all the same, so that it should be repeated under the same key.
   * `unreachable`: there was no answer at all.
   * `code`: the code of the error, in an answer of the service.
   */
  constructor(message, { unknown = false, unreachable = false, code }) {
    super(message);
    this.unknown = unknown;
    this.unreachable = unreachable;
    this.code = code;
  }
}

export class Api {
  #base;
  #identity;
  /** The position of what this page wrote last. Reads ask for at least that, whichever replica they reach. */
  #position = null;

  /** A creator by the name of this user: with dev auth, people are who they say. */
  constructor(channel, user) {
    this.#base = `/api/${encodeURIComponent(channel)}/broadcast`;
    this.#identity = { "X-User-Id": headerText(user), "X-User-Role": "creator" };
  }

  send(broadcast, key) {
    return this.#write("", { "Idempotency-Key": key }, broadcast);
  }

  /** Clears this broadcast, and no other one that may have come meanwhile. */
  clear(id, key) {
    return this.#write("/clear", { "Idempotency-Key": key, "If-Match": `"${id}"` });
  }

  stats() {
    return this.#read("/stats");
  }

  history(limit) {
    return this.#read(`/history?limit=${limit}`);
  }

  acknowledgements(id, limit) {
    return this.#read(`/${id}/acks?limit=${limit}`);
  }

  /** The log may have been replaced: what was written to the old one is not waited for. */
  forget() {
    this.#position = null;
  }

  #write(path, headers, body) {
    const json = body && { body: JSON.stringify(body), headers: { ...headers, "Content-Type": "application/json" } };
    return this.#call(path, { method: "POST", headers, ...json });
  }

  async #read(path) {
    const asked = this.#position;
    try {
      return await this.#call(path, { headers: asked ? { "Tidings-Min-Position": asked } : {} });
    } catch (refusal) {
      if (refusal.code !== "other_log" || !asked) throw refusal;
      if (this.#position === asked) this.forget();
      return this.#call(path, {});
    }
  }

  async #call(path, options) {
    const headers = { ...this.#identity, ...options.headers };
    const signal = AbortSignal.timeout(PATIENCE_MS);
    const response = await fetch(this.#base + path, { ...options, headers, signal }).catch(() => {
      throw new Refusal("The service does not answer.", { unknown: true, unreachable: true });
    });
    if (options.method === "POST") this.#position = response.headers.get("Tidings-Position") ?? this.#position;
    const answer = await response.json().catch(() => ({ message: `The service answered ${response.status}.` }));
    if (!response.ok) throw new Refusal(answer.message, { unknown: response.status >= 500, code: answer.code });
    return answer;
  }
}

/** The service reads a header as UTF-8, and `fetch` takes a string with a character for each byte. */
function headerText(text) {
  return String.fromCharCode(...new TextEncoder().encode(text));
}

/** A key under which a request takes effect once, however often it is sent. */
export function freshKey() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}
