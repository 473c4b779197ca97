// A user's side: shows what a client knows, the way an application would.

import { message as shown, refusalWords, visible } from "./words.js";

/** Lines of traffic that are kept for those who look. */
const KEPT_LINES = 100;

const HEADINGS = { info: "Announcement", warning: "Warning", alert: "Alert" };
const PHASES = { connecting: "Connecting", live: "Live", waiting: "Reconnecting", stopped: "Stopped" };
const REFUSED = "Refused";
/** Connected, to a replica that has lost its event log for a while. */
const ALONE = "Live, on its own";
const RECEIPTS = {
  confirmed: "Acknowledged, and confirmed by the service.",
  elsewhere: "Acknowledged on another device.",
};

const part = (name) => document.getElementById(`device-${name}`);

/** Draws a client as it is now. */
export function draw(client) {
  drawConnection(client);
  drawBanner(client);
}

function drawConnection(client) {
  const { phase, mode, retryAt, refusal } = client;
  const alone = phase === "live" && mode === "local";
  const refused = phase === "stopped" && refusal;
  part("connection").dataset.phase = alone ? "alone" : refused ? "refused" : phase;
  setText(part("phase"), alone ? ALONE : refused ? REFUSED : PHASES[phase]);
  const seconds = Math.max(0, Math.ceil((retryAt - Date.now()) / 1000));
  setText(part("countdown"), phase === "waiting" ? `in ${seconds} s` : "");
  setText(part("refusal"), refusalWords(client));
  part("reconnect").hidden = phase !== "waiting" && !refused;
}

function drawBanner({ broadcast, receipt, failure, phase }) {
  const settled = RECEIPTS[receipt];
  const banner = part("banner");
  const shown = Boolean(broadcast) && !settled;
  if (shown) drawBroadcast(banner, broadcast);
  else hide(banner);
  part("quiet").hidden = shown;
  part("quiet").toggleAttribute("data-receipt", Boolean(settled));
  // Without a connection nobody knows.
  setText(part("receipt"), settled ?? (phase === "live" ? "Nothing to read right now." : ""));
  drawAcknowledgement(receipt, failure, phase);
}

function drawBroadcast(banner, { id, type, message, created_at: at }) {
  if (banner.dataset.id === id && !banner.hidden) return;
  banner.dataset.id = id;
  banner.dataset.type = type;
  // Whoever listens is interrupted by an alert alone.
  part("screen").setAttribute("aria-live", type === "alert" ? "assertive" : "polite");
  setText(part("heading"), HEADINGS[type] ?? HEADINGS.info);
  setText(part("time"), new Date(at).toLocaleTimeString([], { timeStyle: "short" }));
  setText(part("message"), shown(message));
  banner.hidden = false;
}

function drawAcknowledgement(receipt, failure, phase) {
  const button = part("acknowledge");
  const sending = receipt === "sending";
  button.setAttribute("aria-disabled", sending);
  setText(button, sending ? "Acknowledging…" : receipt === "failed" ? "Try again" : "Acknowledge");
  const later = sending && phase !== "live" ? "Sent again as soon as the connection is back." : "";
  setText(part("note"), visible(failure) || later);
}

/** The button that was pressed goes with the banner; the focus must not get lost with it. */
function hide(banner) {
  if (banner.contains(document.activeElement)) part("screen").focus();
  banner.hidden = true;
}

/** Adds a line to the log of what went over the wire. */
export function log({ direction, text }) {
  const line = document.createElement("li");
  line.dataset.direction = direction;
  const time = document.createElement("time");
  time.textContent = new Date().toLocaleTimeString([], { timeStyle: "medium" });
  const words = document.createElement("code");
  words.textContent = visible(text);
  line.append(time, words);
  const lines = part("log");
  lines.prepend(line);
  while (lines.children.length > KEPT_LINES) lines.lastElementChild.remove();
}

/** Text that stays as it is must not be announced again. */
function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}
