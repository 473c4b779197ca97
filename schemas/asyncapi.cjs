// Parses and validates an AsyncAPI document with AsyncAPI's own parser: node asyncapi.cjs FILE

const { readFileSync } = require('node:fs');
const { Parser } = require('@asyncapi/parser');

const ERROR = 0;

async function main(file) {
  const { document, diagnostics } = await new Parser().parse(readFileSync(file, 'utf8'));
  const errors = diagnostics.filter(({ severity }) => severity === ERROR);
  for (const { path, message } of errors) console.error(`${file}: ${path.join('.')}: ${message}`);
  if (!document || errors.length > 0) process.exit(1);
  const [channels, operations] = [document.channels().length, document.operations().length];
  console.log(`${file}: OK (${channels} channels, ${operations} operations)`);
}

main(process.argv[2]);
