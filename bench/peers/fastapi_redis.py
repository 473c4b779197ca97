"""A broadcast server as one writes it with FastAPI and Redis, which is what Tidings replaces.

A broadcast is kept in Redis and published there; each process subscribes, and sends what it hears to its own WebSockets, one
after the other. An acknowledgement is a key of Redis. The argument is the socket of a redis-server; stdout says where this
listens. The benchmark's load measures it beside a replica: README.md of the folder above.
"""

import asyncio
import json
import socket
import sys
from contextlib import asynccontextmanager

import uvicorn
from fastapi import FastAPI, WebSocket, WebSocketDisconnect
from pydantic import BaseModel
from redis.asyncio import Redis

ID = "01a215d7-b34d-712f-989d-235a2e6acb60"
CHANNEL = "broadcasts"

# As many as a replica lets wait to be accepted.
BACKLOG = 4096


class Broadcast(BaseModel):
    message: str
    type: str = "info"


def compact(value) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


class Manager:
    """The WebSockets of this process."""

    def __init__(self) -> None:
        self.sockets: set[WebSocket] = set()

    async def send(self, text: str) -> None:
        for websocket in list(self.sockets):
            try:
                await websocket.send_text(text)
            except (RuntimeError, WebSocketDisconnect):
                self.sockets.discard(websocket)

    async def pass_on(self, subscribed) -> None:
        async for message in subscribed.listen():
            if message["type"] == "message":
                await self.send(message["data"])


manager = Manager()
redis = Redis(unix_socket_path=sys.argv[1], decode_responses=True)


@asynccontextmanager
async def lifespan(_: FastAPI):
    async with redis, redis.pubsub() as subscribed:
        await subscribed.subscribe(CHANNEL)
        passing_on = asyncio.create_task(manager.pass_on(subscribed))
        yield
        passing_on.cancel()


app = FastAPI(lifespan=lifespan)


@app.post("/api/creator/broadcast", status_code=201)
async def create(broadcast: Broadcast):
    text = compact(
        {
            "type": "new_broadcast",
            "broadcast": {
                "id": ID,
                "message": broadcast.message,
                "type": broadcast.type,
                "message_type": broadcast.type,
                "created_by": "bench",
                "created_at": "2026-11-26T03:13:07.772Z",
            },
            "position": "9f2c41d07be3a865-1",
        }
    )
    await redis.set("current_broadcast", text)
    await redis.publish(CHANNEL, text)
    return {"status": "success", "id": ID}


@app.websocket("/api/creator/broadcast/ws")
async def connect(websocket: WebSocket, user_id: str):
    await websocket.accept()
    manager.sockets.add(websocket)
    try:
        while True:
            said = json.loads(await websocket.receive_text())
            if said.get("type") == "acknowledge_broadcast":
                broadcast_id = said["broadcast_id"]
                await redis.set(f"broadcast:{broadcast_id}:ack:{user_id}", "1")
                answer = {"type": "acknowledged", "broadcast_id": broadcast_id, "already": False, "position": "9f2c41d07be3a865-1"}
                await websocket.send_text(compact(answer))
    except WebSocketDisconnect:
        pass
    finally:
        manager.sockets.discard(websocket)


def main() -> None:
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.bind(("127.0.0.1", 0))
    listener.listen(BACKLOG)
    host, port = listener.getsockname()
    print(f"{host}:{port}", flush=True)
    # No heartbeat comes while something else is measured, and the creator's connection may wait; a replica's are set the same.
    config = uvicorn.Config(
        app,
        ws="websockets-sansio",
        ws_ping_interval=None,
        loop="uvloop",
        http="httptools",
        backlog=BACKLOG,
        timeout_keep_alive=75,
        log_level="warning",
        access_log=False,
    )
    uvicorn.Server(config).run(sockets=[listener])


if __name__ == "__main__":
    main()
