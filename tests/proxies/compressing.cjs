// Holds the event stream to its promise behind a proxy that compresses what it can: express with `compression` and
// `http-proxy-middleware`, each as it is by default. An event, and a keep-alive, arrives when it is sent, and as it was sent.
//
//   node compressing.cjs http://127.0.0.1:8000    a replica with --heartbeat-seconds 1

const http = require('node:http');
const compression = require('compression');
const express = require('express');
const { createProxyMiddleware } = require('http-proxy-middleware');

/** In that time keep-alives do not fill the smallest buffer there is. */
const AT_ONCE_MS = 10_000;

const EVENTS = '/api/creator/broadcast/events?user_id=proxied';
const FOLLOWED = '/api/audit/events?follow=true';

function proxy(target) {
  const application = express();
  application.use(compression());
  application.use(createProxyMiddleware({ target, changeOrigin: true }));
  return new Promise((resolve) => {
    const server = application.listen(0, '127.0.0.1', () => resolve(server));
  });
}

/** An answer whose body is read as it arrives. */
class Arriving {
  #text = '';
  #wake = () => {};

  static open(url, headers = {}) {
    return within(`the head of ${url}`, new Promise((resolve, reject) => {
      const request = http.get(url, { headers: { 'Accept-Encoding': 'gzip, br', ...headers } });
      request.on('response', (answer) => resolve(new Arriving(answer)));
      request.on('error', reject);
    }));
  }

  constructor(answer) {
    this.answer = answer;
    answer.setEncoding('utf8');
    answer.on('data', (part) => {
      this.#text += part;
      this.#wake();
    });
  }

  until(words) {
    return within(`\`${words}\` of ${this.answer.req.path}`, new Promise((resolve) => {
      this.#wake = () => this.#text.includes(words) && resolve();
      this.#wake();
    }));
  }
}

async function within(what, promise) {
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`${what} does not arrive within ${AT_ONCE_MS} ms`)), AT_ONCE_MS);
  });
  return Promise.race([promise, late]).finally(() => clearTimeout(timer));
}

async function post(url, message) {
  const body = JSON.stringify({ message });
  const headers = { 'Content-Type': 'application/json' };
  const answer = await fetch(`${url}/api/creator/broadcast`, { method: 'POST', headers, body });
  if (answer.status !== 201) throw new Error(`a post through the proxy is answered ${answer.status}`);
}

async function main(replica) {
  const server = await proxy(replica);
  const url = `http://127.0.0.1:${server.address().port}`;
  const page = await Arriving.open(`${url}/`);
  if (!page.answer.headers['content-encoding']) throw new Error('the proxy compresses nothing, so this would show nothing');

  await post(url, 'sent before');
  const events = await Arriving.open(url + EVENTS);
  const followed = await Arriving.open(url + FOLLOWED, { 'X-User-Role': 'auditor' });
  await events.until('sent before');
  await events.until('\n:\n');
  await followed.until('sent before');
  await post(url, 'sent meanwhile');
  await events.until('sent meanwhile');
  await followed.until('sent meanwhile');
  console.log('event streams: each event and keep-alive passes a compressing proxy at once');
  process.exit(0);
}

main(process.argv[2]).catch((error) => {
  console.error(`event streams behind a compressing proxy: ${error.message}`);
  process.exit(1);
});
