// The REST interface of one channel, as its creator calls it.

/** Longer than the service itself waits for its log, so that its own answer comes first. */
const PATIENCE_MS = 15_000;

/** What the service, or the way to it, said no with. Its message is for people. */
export class Refusal extends Error {
  /** `unknown` means that it may have happened all the same, so that it should be repeated under the same key. */
  constructor(message, { unknown, code }) {
    super(message);
    this.unknown = unknown;
    this.code = code;
  }
}

export class Api {
  #base;
  /** The position of what this page wrote last. Reads ask for at least that, whichever replica they reach. */
  #position = null;

  constructor(channel) {
    this.#base = `/api/${encodeURIComponent(channel)}/broadcast`;
  }

  send(broadcast, key) {
    return this.#write("", { "Idempotency-Key": key }, broadcast);
  }

  /** Clears this broadcast and no other one that may have come meanwhile; without an id, whatever is active. */
  clear(id, key) {
    return this.#write("/clear", { "Idempotency-Key": key, ...(id && { "If-Match": `"${id}"` }) });
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

  async #write(path, headers, body) {
    const json = body && { body: JSON.stringify(body), headers: { ...headers, "Content-Type": "application/json" } };
    const answer = await this.#call(path, { method: "POST", headers, ...json });
    return answer;
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
    const response = await fetch(this.#base + path, { ...options, signal: AbortSignal.timeout(PATIENCE_MS) }).catch(() => {
      throw new Refusal("The service does not answer.", { unknown: true });
    });
    if (options.method === "POST") this.#position = response.headers.get("Tidings-Position") ?? this.#position;
    const answer = await response.json().catch(() => ({ message: `The service answered ${response.status}.` }));
    if (!response.ok) throw new Refusal(answer.message, { unknown: response.status >= 500, code: answer.code });
    return answer;
  }
}

/** A key under which a request takes effect once, however often it is sent. */
export function freshKey() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}
