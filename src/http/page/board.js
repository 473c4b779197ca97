// What a creator sees of a channel: what is on air, who is connected, and what was sent.

import { Refusal } from "./api.js";
import { duration, element, message as shown, moment, name, refusalWords, visible } from "./words.js";

/**
 * Acknowledgements of others come without a message, so they are looked for: soon after something happened, and less
 * and less often while nothing does.
 */
const SOONEST_LOOK_MS = 3_000;
const LATEST_LOOK_MS = 30_000;
const SLOWER = 1.5;

const HISTORY_PAGE = 6;
const HISTORY_MOST = 200;
const NAMES_SHOWN = 24;

const STATUSES = { active: "On air", cleared: "Cleared", superseded: "Replaced", expired: "Expired", late: "Too late" };

const part = (name) => document.getElementById(`creator-${name}`);

/** The broadcast that is on air, as far as it is known here. */
export let active = null;

let api = null;
let told = () => {};
let entries = HISTORY_PAGE;
/** Why what is shown may no longer be so; nothing while it is up to date. */
let lost = "";
let failed = "";
/** When the connection was lost. */
let since = null;

/** Makes it look after itself. `changed` is called after each look at the service that worked. */
export function begin(changed) {
  told = changed;
  part("more").addEventListener("click", () => {
    entries = Math.min(entries + 4 * HISTORY_PAGE, HISTORY_MOST);
    refresh();
  });
  document.addEventListener("visibilitychange", () => (document.hidden ? clearTimeout(timer) : refresh()));
}

/** Turns to a channel, or to another creator. */
export function open(from) {
  api = from;
  active = null;
  entries = HISTORY_PAGE;
  names = { of: "", list: [] };
  failed = "";
  blank();
  return refresh();
}

/** Shows nothing: what was there is of another channel, and nothing is known of this one. */
function blank() {
  part("silent").hidden = part("active").hidden = part("replaces").hidden = true;
  part("no-history").hidden = part("more").hidden = true;
  part("clear").disabled = true;
  part("history").replaceChildren();
  for (const number of ["users", "connections", "replicas", "today"]) part(number).textContent = "–";
}

/** How the connection of the page is: the client. */
export function connection(client) {
  const isAway = client.phase === "waiting" || (client.phase === "stopped" && client.refusal);
  if (client.phase === "live") lost = "";
  // What is on its way, or was turned off by the page, says nothing of the service yet.
  else if (isAway) lost = `${refusalWords(client) || "No connection to the service."} This is as of ${(since ??= now())}.`;
  if (!lost) since = null;
  drawStale();
}

/** What the connection tells a creator. */
export function hear(message) {
  if (message.type === "stats_update") drawAudience(message.stats);
  else if (message.type !== "error") refresh();
}

// Reading.

let reading = null;
let readAgain = false;
let timer = 0;
let pause = SOONEST_LOOK_MS;

/** Reads everything anew, now or as soon as somebody looks. */
export function refresh() {
  pause = SOONEST_LOOK_MS;
  return document.hidden ? null : start(readAll);
}

/** One read at a time, so that an older answer never overtakes a newer one. What is asked for meanwhile is read after. */
function start(read) {
  clearTimeout(timer);
  if (reading) readAgain ||= read === readAll;
  reading ??= attempt(read).finally(() => {
    const again = readAgain;
    reading = null;
    readAgain = false;
    if (again) refresh();
    else lookLater();
  });
  return reading;
}

/** Looks only for what comes without a message, or anew for what could not be read. */
function lookLater() {
  if (lost || document.hidden || !(active || failed)) return;
  timer = setTimeout(start, pause, failed ? readAll : readHistory);
  pause = Math.min(pause * SLOWER, LATEST_LOOK_MS);
}

async function attempt(read) {
  const from = api;
  try {
    const draw = await read(from);
    if (from !== api) return;
    draw();
    failed = "";
    told();
  } catch (error) {
    if (!(error instanceof Refusal)) throw error;
    if (from === api) failed = `Not up to date: ${visible(error.message)}`;
  }
  drawStale();
}

async function readAll(from) {
  const [{ stats }, drawRest] = await Promise.all([from.stats(), readHistory(from)]);
  return () => {
    drawAudience(stats);
    part("today").textContent = stats.broadcasts_today;
    drawRest();
  };
}

/** Who acknowledged, of which broadcast and how many: read again when that changes. */
let names = { of: "", list: [] };

async function readHistory(from) {
  const { broadcasts, next_cursor: more } = await from.history(entries);
  const found = broadcasts.find(({ status }) => status === "active") ?? null;
  const of = found?.acknowledged ? `${found.id} ${found.acknowledged}` : "";
  const read = async () => (of ? (await from.acknowledgements(found.id, NAMES_SHOWN)).acknowledgements : []);
  const list = of === names.of ? names.list : await read();
  return () => {
    active = found;
    if (of !== names.of) pause = SOONEST_LOOK_MS;
    names = { of, list };
    drawActive();
    drawHistory(broadcasts, more && entries < HISTORY_MOST);
  };
}

// Drawing.

function drawStale() {
  const why = lost || failed;
  part("side").toggleAttribute("data-stale", Boolean(why));
  part("past").toggleAttribute("data-stale", Boolean(why));
  if (part("stale").textContent !== why) part("stale").textContent = why;
}

function drawAudience(stats) {
  part("users").textContent = stats.approximate ? `≈ ${stats.connected_users}` : stats.connected_users;
  part("connections").textContent = stats.connections;
  part("replicas").textContent = stats.replicas;
}

function drawActive() {
  part("silent").hidden = Boolean(active);
  part("active").hidden = !active;
  part("clear").disabled = !active;
  part("replaces").hidden = !active;
  if (!active) return;
  part("active").dataset.type = active.type;
  part("active-type").textContent = active.type;
  part("active-message").textContent = shown(active.message);
  part("active-since").replaceChildren(`since ${moment(active.created_at)}, by `, name(active.created_by));
  part("acknowledged").textContent = active.acknowledged;
  const lines = names.list.map(({ user, at }) => {
    const line = element("li", { title: moment(at) });
    line.append(name(user));
    return line;
  });
  const others = active.acknowledged - lines.length;
  if (others > 0) lines.push(element("li", { text: `and ${others} more`, name: "rest" }));
  redraw(part("names"), lines);
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
  const facts = element("p", { name: "facts" });
  const outcome = element("span", { text: STATUSES[status] ?? status, name: "status" });
  outcome.dataset.status = status;
  facts.append(
    outcome,
    element("time", { text: moment(at) }),
    element("span", { text: `${acknowledged} acknowledged${howSoon(acknowledged, took.p50)}` }),
  );
  const words = element("p", { text: shown(message), name: "words" });
  words.dir = "auto";
  entry.append(words, facts);
  return entry;
}

function howSoon(acknowledged, median) {
  if (median === null) return "";
  return acknowledged === 1 ? `, after ${duration(median)}` : `, half of them within ${duration(median)}`;
}

/** What looks the same stays, and with it whatever a reader has selected or hovers over. */
function redraw(list, entries) {
  const before = Array.from(list.children);
  const same = before.length === entries.length && before.every((entry, n) => entry.isEqualNode(entries[n]));
  if (!same) list.replaceChildren(...entries);
}

function now() {
  return new Date().toLocaleTimeString([], { timeStyle: "medium" });
}
