// A broadcast server as one writes it with Bun: its own WebSocket server, with uWebSockets inside, and a topic that everybody is
// subscribed to. It says on stdout where it listens, and is measured by the benchmark's load beside a replica: README.md of the
// folder above.

const ID = "01a215d7-b34d-712f-989d-235a2e6acb60";
const TOPIC = "broadcasts";

const server = Bun.serve({
  hostname: "127.0.0.1",
  port: 0,
  // Clients wait longer than that between two measurements.
  idleTimeout: 0,
  async fetch(request, server) {
    const { pathname } = new URL(request.url);
    if (pathname === "/api/creator/broadcast/ws") {
      return server.upgrade(request) ? undefined : new Response("This takes a WebSocket.", { status: 426 });
    }
    if (pathname === "/api/creator/broadcast" && request.method === "POST") {
      const { message } = await request.json();
      server.publish(TOPIC, told(message));
      return Response.json({ status: "success", id: ID }, { status: 201 });
    }
    return new Response("There is nothing here.", { status: 404 });
  },
  websocket: {
    // No heartbeat comes while something else is measured; a replica's is kept out as well.
    idleTimeout: 0,
    sendPings: false,
    open(socket) {
      socket.subscribe(TOPIC);
    },
    message(socket, text) {
      const said = JSON.parse(String(text));
      if (said.type === "acknowledge_broadcast") {
        const { broadcast_id } = said;
        socket.send(JSON.stringify({ type: "acknowledged", broadcast_id, already: false, sequence: 1 }));
      }
    },
  },
});

/** What every client is told of a broadcast: as long as what a replica says. */
function told(message: string): string {
  return JSON.stringify({
    type: "new_broadcast",
    broadcast: {
      id: ID,
      message,
      type: "info",
      message_type: "info",
      created_by: "bench",
      created_at: "2026-11-26T03:13:07.772Z",
    },
    sequence: 1,
  });
}

console.log(`${server.hostname}:${server.port}`);
