// The creator's side: sends, clears, and says what came of it.

import { Api, Refusal, freshKey } from "./api.js";
import * as board from "./board.js";
import { Outcome } from "./outcome.js";
import { ask, withdraw } from "./question.js";
import { people, visible } from "./words.js";

const MAX_CHARACTERS = 280;
const RECOMMENDED_CHARACTERS = 120;

const part = (name) => document.getElementById(`creator-${name}`);

const sending = new Outcome(part("outcome"));
const clearing = new Outcome(part("clear-outcome"));

let api = null;

/** Turns to a channel, as this user. */
export function open(channel, user) {
  api = new Api(channel, user);
  unsettled = null;
  sending.drop();
  clearing.drop();
  part("name").textContent = visible(user);
  return board.open(api);
}

/** Makes the form work. */
export function begin() {
  const form = part("form");
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    send();
  });
  part("clear").addEventListener("click", clear);
  form.addEventListener("input", () => {
    countCharacters();
    sending.edited();
  });
  form.message.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) form.requestSubmit();
  });
  countCharacters();
  board.begin(() => {
    sending.recovered();
    clearing.recovered();
    if (asked && board.active?.id !== asked) withdraw();
  });
}

/** What the connection of the page tells a creator. */
export function hear(message) {
  if (message.type === "resync") api.forget();
  sending.hear(message);
  clearing.hear(message);
  board.hear(message);
}

/** How the connection of the page is: the client. */
export function connection(client) {
  board.connection(client);
}

// Writing.

async function send() {
  if (busy) return;
  const form = part("form");
  const broadcast = { message: form.message.value, type: form.type.value };
  if (broadcast.type === "alert" && isFit(broadcast.message) && !(await ask(alertQuestion(broadcast)))) return;
  await attempt(sending, async () => {
    const answer = await once(JSON.stringify(broadcast), (key) => api.send(broadcast, key));
    form.message.value = "";
    countCharacters();
    sending.sent(answer.message, answer.id);
  });
}

function alertQuestion({ message, type }) {
  const words = "It interrupts everyone who is connected, at once. Who is away gets it at the next connect.";
  return { title: "Send this alert to everyone?", words, quote: message.trim(), type, yes: "Send alert", no: "Do not send" };
}

/** The broadcast that the user is asked about before it is cleared. */
let asked = null;

async function clear() {
  const { active } = board;
  if (busy || !active) return;
  asked = active.id;
  const isMeant = await ask(clearQuestion(active));
  asked = null;
  if (!isMeant) return;
  await attempt(clearing, async () => {
    const answer = await once(`clear ${active.id}`, (key) => api.clear(active.id, key));
    clearing.cleared(`Cleared for ${people(answer.cleared_for_users)}.`, answer.broadcast_id);
  });
}

function clearQuestion({ message, type }) {
  const words = "It disappears for everyone. It can be sent again, but its acknowledgements start anew.";
  return { title: "Clear what is on air?", words, quote: message, type, yes: "Clear", no: "Keep it" };
}

let busy = false;

/** One thing at a time; what comes of it is said in words. */
async function attempt(outcome, action) {
  setBusy(true);
  try {
    await action();
  } catch (error) {
    if (!(error instanceof Refusal)) throw error;
    outcome.refused(error);
  } finally {
    setBusy(false);
    board.refresh();
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

function setBusy(now) {
  busy = now;
  part("side").setAttribute("aria-busy", now);
}

/** The service counts Unicode scalar values of the trimmed text, and so does this. */
function length(text) {
  return [...text.trim()].length;
}

/** Whether the service can be expected to take it. It judges; here it is only not asked about before it is refused. */
function isFit(text) {
  return length(text) > 0 && length(text) <= MAX_CHARACTERS;
}

function countCharacters() {
  const count = length(part("form").message.value);
  part("count").textContent = `${count} / ${MAX_CHARACTERS}`;
  const level = count > MAX_CHARACTERS ? "over" : count > RECOMMENDED_CHARACTERS ? "long" : "";
  part("count").dataset.level = level;
  part("advice").textContent = {
    "": `Short is read: up to ${RECOMMENDED_CHARACTERS} characters are best.`,
    long: `Longer than the recommended ${RECOMMENDED_CHARACTERS} characters.`,
    over: `Too long by ${count - MAX_CHARACTERS}.`,
  }[level];
}
