// Puts the page together: whose it is, in which channel, which sides of it are shown, and who hears what.
//
// Its address says the same: `?user=`, `?channel=`, and `?view=creator` or `?view=user` for one side alone.

import { LiveClient } from "./client.js";
import * as creator from "./creator.js";
import * as device from "./device.js";
import { visible } from "./words.js";

const VIEWS = ["both", "creator", "user"];

const user = document.getElementById("user");
const channel = document.getElementById("channel");
const asked = new URLSearchParams(location.search);
const view = VIEWS.includes(asked.get("view")) ? asked.get("view") : VIEWS[0];
const hasCreator = view !== "user";

let client = null;

/**
 * Where the client connects. By the role, the one connection of this page tells the creator's side too how many are
 * connected; the user of an application needs none.
 */
function address() {
  const url = new URL(`/api/${encodeURIComponent(channel.value)}/broadcast/ws`, location.href);
  url.protocol = url.protocol.replace("http", "ws");
  url.search = new URLSearchParams({ user_id: user.value, role: hasCreator ? "creator" : "user" });
  return url.href;
}

function connect() {
  client?.stop();
  client = new LiveClient(address());
  client.addEventListener("change", draw);
  if (hasCreator) client.addEventListener("message", ({ detail }) => creator.hear(detail));
  client.addEventListener("traffic", ({ detail }) => device.log(detail));
  client.start();
}

function draw() {
  device.draw(client);
  if (hasCreator) creator.connection(client);
}

/** The query of this page, with something else in it. */
function query(changes) {
  const parts = { user: user.value, channel: channel.value, view, ...changes };
  if (parts.view === VIEWS[0]) delete parts.view;
  return `?${new URLSearchParams(parts)}`;
}

/** The address of the page says whose it is, so that it can be shared, reloaded and opened once more for somebody else. */
function settle() {
  user.value = user.value.trim() || user.defaultValue;
  document.getElementById("whose").textContent = visible(user.value);
  history.replaceState(null, "", query({}));
  document.getElementById("another").href = query({ user: user.value === "ben" ? "ann" : "ben" });
  for (const name of VIEWS) document.getElementById(`view-${name}`).href = query({ view: name });
}

function turn() {
  settle();
  connect();
  if (hasCreator) creator.open(channel.value, user.value);
}

user.value = asked.get("user") ?? "";
const known = Array.from(channel.options, (option) => option.value);
if (known.includes(asked.get("channel"))) channel.value = asked.get("channel");
document.getElementById("channels").hidden = known.length < 2;
document.documentElement.dataset.view = view;
document.getElementById(`view-${view}`).setAttribute("aria-current", "page");

document.getElementById("who").addEventListener("submit", (event) => {
  event.preventDefault();
  user.blur();
});
user.addEventListener("change", turn);
channel.addEventListener("change", turn);
document.getElementById("device-acknowledge").addEventListener("click", () => client.acknowledge());
document.getElementById("device-reconnect").addEventListener("click", () => {
  client.start();
  client.reconnect();
});
// The countdown.
setInterval(() => device.draw(client), 500);

if (hasCreator) creator.begin();
turn();
