"""Makes a replica write events of every type.

  python3 announce.py FILE    the file in which the replica says where it listens, once it does
"""

import json
import sys
import time
from pathlib import Path
from urllib.error import URLError
from urllib.request import Request, urlopen

PATIENCE_SECONDS = 60


def post(path: str, body: dict, **headers: str) -> dict:
    headers = {"Content-Type": "application/json", **{name.replace("_", "-"): text for name, text in headers.items()}}
    request = Request(f"{url}/api/creator/broadcast{path}", json.dumps(body).encode(), headers)
    with urlopen(request, timeout=PATIENCE_SECONDS) as answer:
        return json.load(answer)


def ready() -> str | None:
    """Where the replica listens, when it is ready."""
    try:
        url = Path(sys.argv[1]).read_text(encoding="utf-8").strip()
        with urlopen(f"{url}/readyz", timeout=PATIENCE_SECONDS):
            return url
    except (OSError, URLError, ValueError):
        return None


until = time.monotonic() + PATIENCE_SECONDS
while not (url := ready()):
    if time.monotonic() > until:
        sys.exit("the replica is not ready")
    time.sleep(0.1)

trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
first = post("", {"message": "Line one\nand \"two\", 東京 🦀"}, traceparent=trace)["id"]
for user in ["ann", "a.b c", "東京"]:
    post("/acknowledge", {"broadcast_id": first}, X_User_Id=user.encode().decode("latin-1"))
post("", {"message": "x" * 280, "type": "alert"})
post("/clear", {})
