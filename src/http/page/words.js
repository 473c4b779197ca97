// Numbers and times in words, and elements with text in them.

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
