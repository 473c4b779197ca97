// Puts the page together: whose device it shows, in which channel, and who hears what.

import { LiveClient } from "./client.js";
import * as creator from "./creator.js";
import * as device from "./device.js";

const user = document.getElementById("user");
const channel = document.getElementById("channel");

let client = null;

/**
 * Where the client connects. By the role, the one connection of this page tells the left side too how many are
 * connected; the user of an application needs none.
 */
function address() {
  const url = new URL(`/api/${encodeURIComponent(channel.value)}/broadcast/ws`, location.href);
  url.protocol = url.protocol.replace("http", "ws");
  url.search = new URLSearchParams({ user_id: user.value, role: "creator" });
  return url.href;
}

function connect() {
  client?.stop();
  client = new LiveClient(address());
  client.addEventListener("change", () => device.draw(client));
  client.addEventListener("message", ({ detail }) => creator.hear(detail));
  client.addEventListener("traffic", ({ detail }) => device.log(detail));
  client.start();
}

/** The address of the page says whose it is, so that it can be shared, reloaded and opened once more for somebody else. */
function settle() {
  user.value = user.value.trim() || user.defaultValue;
  document.getElementById("whose").textContent = user.value;
  history.replaceState(null, "", `?${new URLSearchParams({ user: user.value, channel: channel.value })}`);
  const another = new URLSearchParams({ user: user.value === "ben" ? "ann" : "ben", channel: channel.value });
  document.getElementById("another").href = `?${another}`;
}

function turnTo() {
  settle();
  connect();
  creator.open(channel.value);
}

const asked = new URLSearchParams(location.search);
user.value = asked.get("user") ?? "";
const known = Array.from(channel.options, (option) => option.value);
if (known.includes(asked.get("channel"))) channel.value = asked.get("channel");
document.getElementById("channels").hidden = known.length < 2;

document.getElementById("who").addEventListener("submit", (event) => {
  event.preventDefault();
  user.blur();
});
user.addEventListener("change", () => {
  settle();
  connect();
});
channel.addEventListener("change", turnTo);
document.getElementById("device-acknowledge").addEventListener("click", () => client.acknowledge());
document.getElementById("device-reconnect").addEventListener("click", () => client.reconnect());
// The countdown.
setInterval(() => device.draw(client), 500);

creator.begin(() => client.phase === "live");
turnTo();
