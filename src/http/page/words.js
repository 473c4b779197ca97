// Refusals, numbers and times in words, and what others have written so that it is what it looks like.

/** What shows nothing, or has text read differently from what it says: controls, directions, joiners, fillers and tags. */
const UNSEEN = /[\p{Cc}\p{Zl}\p{Zp}\p{Default_Ignorable_Code_Point}\p{Noncharacter_Code_Point}\uFFF9-\uFFFB\u2800]/gu;

/**
 * Those that a message may not have: joiners, selectors and newlines are part of honest writing, and pass, as do tags in a flag.
 */
const FORBIDDEN =
  /(?!\n)[\p{Cc}\p{Noncharacter_Code_Point}\u202A-\u202E\u2066-\u2069\uFFF9-\uFFFB]|(?<!\u{1F3F4}[\u{E0020}-\u{E007F}]*)[\u{E0000}-\u{E007F}]/gu;

/** A text of others with what nobody would see in it shown: U+202E as `\u202E`. */
export function visible(text, hidden = UNSEEN) {
  return text.replace(hidden, (character) => {
    const number = character.codePointAt(0).toString(16).toUpperCase().padStart(4, "0");
    return number.length > 4 ? `\\u{${number}}` : `\\u${number}`;
  });
}

/** The same of a message. */
export function message(text) {
  return visible(text, FORBIDDEN);
}

/** The name of a user, which does not turn the text around it whatever its direction is. */
export function name(user) {
  return element("bdi", { text: visible(user) });
}

export function element(tag, { text = "", name = "", title = "" } = {}) {
  const made = document.createElement(tag);
  made.textContent = text;
  if (name) made.className = name;
  if (title) made.title = title;
  return made;
}

export function people(count) {
  return count === 1 ? "1 connected user" : `${count} connected users`;
}

export function moment(at) {
  const then = new Date(at);
  const today = then.toDateString() === new Date().toDateString();
  return then.toLocaleString([], today ? { timeStyle: "short" } : { dateStyle: "medium", timeStyle: "short" });
}

export function duration(ms) {
  if (ms < 1_000) return `${ms} ms`;
  if (ms < 60_000) return `${(ms / 1_000).toFixed(1)} s`;
  return `${Math.round(ms / 60_000)} min`;
}

/** Why the service refuses a connection, by the code of its error. What passes by itself is tried again. */
const REFUSALS = {
  no_identity: "The service cannot tell who connects. Sign in, or choose another user.",
  invalid_token: "This sign-in is not valid. Sign in again.",
  token_expired: "This sign-in has ended. Sign in again.",
  other_user: "This sign-in is another user's. Sign in as this one.",
  origin_not_allowed: "Pages of this address may not connect to the service; its option --allowed-origins lists those that may.",
  host_not_allowed: "The service does not answer to this host name; its option --allowed-hosts adds names.",
  too_many_connections_of_user: "This user has as many connections as one user may have.",
  too_many_requests: "Too many connections were opened from this address in a short time.",
  too_many_connections: "This replica has as many connections as it takes.",
  catching_up: "This replica is still reading the event log.",
  stopping: "This replica is stopping.",
  keys_away: "This replica cannot check sign-ins now: the keys for them are unavailable.",
};

/** Why a client is refused; nothing when it is not. */
export function refusalWords({ phase, refusal }) {
  if (!refusal || phase === "live") return "";
  return REFUSALS[refusal] ?? `The service refuses the connection (${refusal}).`;
}
