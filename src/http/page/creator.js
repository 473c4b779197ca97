// The creator's side: sends, clears, and shows what came of it.

import { Api, Refusal, freshKey } from "./api.js";

const MAX_CHARACTERS = 280;
const RECOMMENDED_CHARACTERS = 120;

/** Acknowledgements come in without a message to the creator, so they are looked for. */
const LOOK_EVERY_MS = 2_000;

const HISTORY_PAGE = 6;
const HISTORY_MOST = 200;
const NAMES_SHOWN = 24;

const STATUSES = { active: "On air", cleared: "Cleared", superseded: "Replaced", expired: "Expired", late: "Too late" };

const part = (name) => document.getElementById(`creator-${name}`);

let api;
let active = null;
let entries = HISTORY_PAGE;

/** Turns to a channel. */
export function open(channel) {
  api = new Api(channel);
  active = null;
  entries = HISTORY_PAGE;
  unsettled = null;
  say("");
  return refresh();
}

/** Makes the form work, and looks again and again while the page is looked at. */
export function begin(isLive) {
  const form = part("form");
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    attempt(send);
  });
  part("clear").addEventListener("click", () => attempt(clear));
  part("more").addEventListener("click", () => {
    entries = Math.min(entries + 4 * HISTORY_PAGE, HISTORY_MOST);
    refresh();
  });
  form.message.addEventListener("input", countCharacters);
  form.message.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) form.requestSubmit();
  });
  countCharacters();
  document.addEventListener("visibilitychange", () => document.hidden || refresh());
  setInterval(() => {
    if (active && isLive() && !document.hidden) refresh();
  }, LOOK_EVERY_MS);
}

/** What the connection of the page tells a creator. */
export function hear(message) {
  if (message.type === "resync") api.forget();
  if (message.type === "stats_update") drawAudience(message.stats);
  else if (message.type !== "mode" && message.type !== "error") refresh();
}

// Writing.

let busy = false;

/** One thing at a time; what comes of it is said in words. */
async function attempt(action) {
  if (busy) return;
  setBusy(true);
  try {
    say(await action(), "done");
  } catch (error) {
    if (!(error instanceof Refusal)) throw error;
    say(error.unknown ? `${error.message} Try again: it takes effect only once.` : error.message, "refused");
  } finally {
    setBusy(false);
    refresh();
  }
}

/** What was asked for without a clear answer, and its key: asking the same again must not do it twice. */
let unsettled = null;

async function once(what, request) {
  if (unsettled?.what !== what) unsettled = { what, key: freshKey() };
  try {
    const answer = await request(unsettled.key);
    unsettled = null;
    return answer;
  } catch (error) {
    if (!error.unknown) unsettled = null;
    throw error;
  }
}

async function send() {
  const form = part("form");
  const broadcast = { message: form.message.value, type: form.type.value };
  const answer = await once(JSON.stringify(broadcast), (key) => api.send(broadcast, key));
  form.message.value = "";
  countCharacters();
  return answer.message;
}

async function clear() {
  const id = active?.id;
  const answer = await once(`clear ${id}`, (key) => api.clear(id, key));
  return answer.broadcast_id ? `Taken down for ${people(answer.cleared_for_users)}.` : "There was nothing to take down.";
}

function setBusy(now) {
  busy = now;
  part("form").setAttribute("aria-busy", now);
}

function say(words, tone = "") {
  part("outcome").textContent = words;
  part("outcome").dataset.tone = tone;
}

/** The service counts Unicode scalar values of the trimmed text, and so does this. It judges nothing: the service does. */
function countCharacters() {
  const count = [...part("form").message.value.trim()].length;
  part("count").textContent = `${count} / ${MAX_CHARACTERS}`;
  const level = count > MAX_CHARACTERS ? "over" : count > RECOMMENDED_CHARACTERS ? "long" : "";
  part("count").dataset.level = level;
  part("advice").textContent = {
    "": `Short is read: up to ${RECOMMENDED_CHARACTERS} characters are best.`,
    long: `Longer than the recommended ${RECOMMENDED_CHARACTERS} characters.`,
    over: `Too long by ${count - MAX_CHARACTERS}.`,
  }[level];
}

// Reading.

let reading = null;
let readAgain = false;

/** Reads everything anew. While that is under way, once more after it is enough. */
export function refresh() {
  readAgain = Boolean(reading);
  reading ??= read().finally(() => {
    reading = null;
    if (readAgain) refresh();
  });
  return reading;
}

async function read() {
  const from = api;
  try {
    const [{ stats }, { broadcasts, next_cursor: more }] = await Promise.all([from.stats(), from.history(entries)]);
    const found = broadcasts.find(({ status }) => status === "active") ?? null;
    const names = found?.acknowledged ? await from.acknowledgements(found.id, NAMES_SHOWN) : null;
    if (from !== api) return;
    active = found;
    drawAudience(stats);
    part("today").textContent = stats.broadcasts_today;
    drawActive(names?.acknowledgements ?? []);
    drawHistory(broadcasts, more && entries < HISTORY_MOST);
    part("stale").textContent = "";
  } catch (error) {
    if (!(error instanceof Refusal)) throw error;
    part("stale").textContent = `Not up to date: ${error.message}`;
  }
}

function drawAudience(stats) {
  part("users").textContent = stats.approximate ? `≈ ${stats.connected_users}` : stats.connected_users;
  part("connections").textContent = stats.connections;
  part("replicas").textContent = stats.replicas;
}

function drawActive(acknowledgements) {
  part("silent").hidden = Boolean(active);
  part("active").hidden = !active;
  if (!active) return;
  part("active").dataset.type = active.type;
  part("active-type").textContent = active.type;
  part("active-message").textContent = active.message;
  part("active-since").textContent = `since ${moment(active.created_at)}, by ${active.created_by}`;
  part("acknowledged").textContent = active.acknowledged;
  const names = acknowledgements.map(({ user, at }) => element("li", { text: user, title: moment(at) }));
  const others = active.acknowledged - names.length;
  if (others > 0) names.push(element("li", { text: `and ${others} more`, name: "rest" }));
  redraw(part("names"), names);
}

function drawHistory(broadcasts, more) {
  redraw(part("history"), broadcasts.map(historyEntry));
  part("no-history").hidden = broadcasts.length > 0;
  part("more").hidden = !more;
}

function historyEntry({ id, type, message, status, created_at: at, acknowledged, time_to_acknowledge_ms: took }) {
  const entry = element("li");
  entry.dataset.id = id;
  entry.dataset.type = type;
  const median = took.p50 === null ? "" : `, half of them within ${duration(took.p50)}`;
  const facts = element("p", { name: "facts" });
  const outcome = element("span", { text: STATUSES[status] ?? status, name: "status" });
  outcome.dataset.status = status;
  facts.append(
    outcome,
    element("time", { text: moment(at) }),
    element("span", { text: `${acknowledged} acknowledged${median}` }),
  );
  entry.append(element("p", { text: message, name: "words" }), facts);
  return entry;
}

/** What looks the same stays, and with it whatever a reader has selected or hovers over. */
function redraw(list, entries) {
  const before = Array.from(list.children);
  const same = before.length === entries.length && before.every((entry, n) => entry.isEqualNode(entries[n]));
  if (!same) list.replaceChildren(...entries);
}

// Words.

function element(tag, { text = "", name = "", title = "" } = {}) {
  const made = document.createElement(tag);
  made.textContent = text;
  if (name) made.className = name;
  if (title) made.title = title;
  return made;
}

function people(count) {
  return count === 1 ? "1 connected user" : `${count} connected users`;
}

function moment(at) {
  const then = new Date(at);
  const today = then.toDateString() === new Date().toDateString();
  return then.toLocaleString([], today ? { timeStyle: "short" } : { dateStyle: "medium", timeStyle: "short" });
}

function duration(ms) {
  if (ms < 1_000) return `${ms} ms`;
  if (ms < 60_000) return `${(ms / 1_000).toFixed(1)} s`;
  return `${Math.round(ms / 60_000)} min`;
}
