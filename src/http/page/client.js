// A client of Tidings for one user in one channel. It knows the wire and no page, so an application can take it as it is.
//
//   const client = new LiveClient("ws://localhost:8000/api/creator/broadcast/ws?user_id=ann");
//   client.addEventListener("change", () => render(client));
//   client.start();
//
// What it is at any moment is in its properties:
//
//   phase       "connecting", "live", "waiting" (until `retryAt`), or "stopped"
//   broadcast   what this user should see now, or null
//   receipt     how far the acknowledgement of it is: null, "sending", "confirmed", "elsewhere" or "failed"
//   failure     why, when it failed: the server's sentence
//   refusal     the server's code for why it refused the connection, until it is live again: "token_expired", for example
//
// After a refusal that does not pass by itself (no token or a bad one, a page or a user who may not connect) the client is
// "stopped": renew what it connects with, and call start() again.
//
// Each "message" event has what the server said, for those who want more of it; each "traffic" event a text as it
// went over the wire, for those who want to look.

/** The wait before the nth attempt grows from the first of these to the last. */
const FIRST_WAIT_MS = 500;
const LONGEST_WAIT_MS = 30_000;

/** A server that is full is not asked as soon as one that is gone. */
const FULL_WAIT_MS = 4_000;

/** The version of the protocol in which a refusal is a close code. Of one that is an HTTP answer, a browser shows nothing. */
const PROTOCOL_VERSION = "2";

/** A connection that held this long was a good one: the next wait is short again. */
const STEADY_MS = 10_000;

/** Whoever opened a connection and is not greeted within this time tries another one. */
const GREETING_MS = 10_000;

/** Close codes that ask for something. After any other one the client just comes back. */
const RESTART = 1012;
const TRY_AGAIN_LATER = 1013;
const UNAUTHORIZED = 4401;
const FORBIDDEN = 4403;
const TOO_MANY = 4429;
const UNAVAILABLE = 4503;

export class LiveClient extends EventTarget {
  phase = "stopped";
  retryAt = 0;
  broadcast = null;
  receipt = null;
  failure = "";
  refusal = "";
  mode = "";

  #url;
  #socket = null;
  #attempts = 0;
  #liveSince = 0;
  #patienceMs = GREETING_MS;
  #retryTimer = 0;
  #silenceTimer = 0;
  /** Acknowledgements that the user gave and the server has not confirmed. They outlive a connection. */
  #unconfirmed = new Set();

  constructor(url) {
    super();
    this.#url = new URL(url, location.href);
    this.#url.searchParams.set("v", PROTOCOL_VERSION);
  }

  start() {
    if (this.phase !== "stopped") return;
    addEventListener("online", this.reconnect);
    addEventListener("pagehide", this.#leave);
    this.#connect();
  }

  stop() {
    removeEventListener("online", this.reconnect);
    removeEventListener("pagehide", this.#leave);
    this.#abandon();
    this.#become("stopped");
  }

  /** A browser may keep a page that was left, and its connection, for when the user goes back to it. */
  #leave = () => {
    this.stop();
    addEventListener("pageshow", () => this.start(), { once: true });
  };

  /** Does not wait any longer. */
  reconnect = () => {
    if (this.phase === "waiting") this.#connect();
  };

  /** Acknowledges what is shown. It counts when `receipt` is "confirmed", which may take a reconnect. */
  acknowledge() {
    const settled = this.receipt === "confirmed" || this.receipt === "elsewhere";
    if (!this.broadcast || settled || this.receipt === "sending") return;
    const { id } = this.broadcast;
    this.#unconfirmed.add(id);
    this.#receive(id, "sending");
    this.#acknowledge(id);
    this.#changed();
  }

  // The connection.

  #connect() {
    this.#abandon();
    const socket = new WebSocket(this.#url);
    this.#socket = socket;
    this.#patienceMs = GREETING_MS;
    this.#expectSomething();
    this.#become("connecting");
    socket.onmessage = ({ data }) => this.#hear(data);
    socket.onclose = ({ code, reason }) => this.#lost(code, reason);
  }

  /** Lets go of the connection, and of everything that would still come from it. */
  #abandon() {
    clearTimeout(this.#retryTimer);
    clearTimeout(this.#silenceTimer);
    if (!this.#socket) return;
    this.#socket.onmessage = this.#socket.onclose = null;
    this.#socket.close();
    this.#socket = null;
  }

  #lost(code, reason) {
    const held = this.phase === "live" ? Date.now() - this.#liveSince : 0;
    this.#abandon();
    if (held > STEADY_MS) this.#attempts = 0;
    this.#tell("traffic", { direction: "in", text: `closed: ${code} ${reason}`.trim() });
    const told = parsed(reason);
    this.refusal = told.code ?? "";
    if (code === UNAUTHORIZED || code === FORBIDDEN) return this.stop();
    const wait = this.#wait(code, told.retry_after_ms);
    this.#attempts += 1;
    this.retryAt = Date.now() + wait;
    this.#retryTimer = setTimeout(this.reconnect, wait);
    this.#become("waiting");
  }

  /** A replica that stops tells each client another delay. All who are refused are told the same one, and add their own. */
  #wait(code, asked) {
    const asks = [RESTART, TOO_MANY, UNAVAILABLE].includes(code) && asked >= 0;
    if (!asks) return this.#backoff(code);
    const delay = Math.min(asked, LONGEST_WAIT_MS);
    return code === RESTART ? delay : delay + this.#backoff(code);
  }

  /** Twice as long each time, and nobody at the same moment: what all clients lost, they do not all rush at. */
  #backoff(code) {
    const atLeast = code === TRY_AGAIN_LATER ? FULL_WAIT_MS : FIRST_WAIT_MS;
    const ceiling = Math.min(LONGEST_WAIT_MS, Math.max(atLeast, FIRST_WAIT_MS * 2 ** this.#attempts));
    return ceiling / 2 + (Math.random() * ceiling) / 2;
  }

  /** A connection may be dead without a word. The server speaks at least every heartbeat, so silence shows it. */
  #expectSomething() {
    clearTimeout(this.#silenceTimer);
    this.#silenceTimer = setTimeout(() => this.#lost(0, "silent"), this.#patienceMs);
  }

  #say(text) {
    if (this.#socket?.readyState !== WebSocket.OPEN) return;
    this.#socket.send(text);
    this.#tell("traffic", { direction: "out", text });
  }

  #acknowledge(id) {
    // Before the greeting there is nobody to talk to yet: the greeting sends it.
    if (this.phase === "live") this.#say(JSON.stringify({ type: "acknowledge_broadcast", broadcast_id: id }));
  }

  // What the server says.

  #hear(text) {
    this.#tell("traffic", { direction: "in", text });
    if (text === "ping") this.#say("pong");
    else if (text !== "pong") this.#understand(JSON.parse(text));
    this.#expectSomething();
  }

  #understand(message) {
    switch (message.type) {
      case "connected":
        this.#greeted(message);
        break;
      case "active_broadcast":
        // Nothing to show may mean that an acknowledgement got there after all. The answer to it will tell.
        if (message.broadcast || this.receipt !== "sending") this.#show(message.broadcast);
        break;
      case "new_broadcast":
        this.#show(message.broadcast);
        break;
      case "broadcast_cleared":
        this.#show(null);
        break;
      case "resync":
        // What is shown stays until the state has followed, which it does at once: an acknowledgement may be on its way.
        break;
      case "acknowledged":
        this.#confirmed(message.broadcast_id, "confirmed");
        break;
      case "broadcast_acknowledged":
        this.#confirmed(message.broadcast_id, "elsewhere");
        break;
      case "mode":
        this.mode = message.mode;
        break;
      case "error":
        this.#refused(message);
        break;
      // Other types are for others, or for later: a client passes over what it does not know.
    }
    this.#changed();
    this.#tell("message", message);
  }

  #greeted({ mode, heartbeat_seconds: seconds }) {
    this.mode = mode;
    this.refusal = "";
    this.#patienceMs = seconds * 2_500;
    this.#liveSince = Date.now();
    this.#become("live");
    // Whether these arrived is unknown. To send them again is safe: a user counts once.
    this.#unconfirmed.forEach((id) => this.#acknowledge(id));
  }

  #show(broadcast) {
    if (broadcast?.id === this.broadcast?.id) return;
    this.broadcast = broadcast;
    this.receipt = broadcast && this.#unconfirmed.has(broadcast.id) ? "sending" : null;
    this.failure = "";
  }

  #confirmed(id, how) {
    this.#unconfirmed.delete(id);
    this.#receive(id, how);
  }

  #refused({ broadcast_id: id, message }) {
    if (!id) return;
    this.#unconfirmed.delete(id);
    this.#receive(id, "failed", message);
  }

  #receive(id, receipt, failure = "") {
    if (id !== this.broadcast?.id) return;
    this.receipt = receipt;
    this.failure = failure;
  }

  // Telling.

  #become(phase) {
    this.phase = phase;
    this.#changed();
  }

  #changed() {
    this.dispatchEvent(new Event("change"));
  }

  #tell(type, detail) {
    this.dispatchEvent(new CustomEvent(type, { detail }));
  }
}

/** What the reason of a close frame says, when it is JSON. */
function parsed(reason) {
  try {
    return Object(JSON.parse(reason));
  } catch {
    return {};
  }
}
