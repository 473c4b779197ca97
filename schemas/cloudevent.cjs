// Reads CloudEvents with the JavaScript SDK of CloudEvents, which holds each to the official JSON Schema.
//
//   node cloudevent.cjs FILE…    a JSON object a file, or one a line in files that end in .ndjson

"use strict";

const { readFileSync } = require("node:fs");
const { isDeepStrictEqual } = require("node:util");
const { CloudEvent, HTTP } = require("cloudevents");

let read = 0;
for (const file of process.argv.slice(2)) {
  const text = readFileSync(file, "utf8");
  for (const body of file.endsWith(".ndjson") ? text.trimEnd().split("\n") : [text]) {
    try {
      const said = JSON.parse(body);
      // Made of the attributes as they stand, and as it would come in a request: each is held to the schema, and every
      // attribute and the data have to come through as they were written.
      const made = new CloudEvent(said);
      const received = HTTP.toEvent({ headers: { "content-type": "application/cloudevents+json" }, body });
      for (const event of [made, received]) {
        event.validate();
        if (!isDeepStrictEqual(JSON.parse(JSON.stringify(event)), said)) {
          throw new Error(`it is read as ${JSON.stringify(event)}`);
        }
      }
    } catch (error) {
      console.error(`${file}: ${error.message} ${JSON.stringify(error.errors ?? [])}\n${body}`);
      process.exit(1);
    }
    read += 1;
  }
}
if (read === 0) {
  console.error("there was nothing to read");
  process.exit(1);
}
console.log(`${read} CloudEvents are by the official schema`);
