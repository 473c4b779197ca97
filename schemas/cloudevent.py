"""Reads CloudEvents with the Python SDK of CloudEvents.

  python3 cloudevent.py FILE…    a JSON object a file, or one a line in files that end in .ndjson
"""

import json
import sys
from datetime import datetime
from pathlib import Path

from cloudevents.core.formats.json import JSONFormat
from cloudevents.core.v1.event import CloudEvent

read = 0
for name in sys.argv[1:]:
    text = Path(name).read_text(encoding="utf-8")
    for body in text.splitlines() if name.endswith(".ndjson") else [text]:
        event = JSONFormat().read(CloudEvent, body)
        said = json.loads(body)
        # Every attribute and the data come through as they were written; a time comes as one.
        heard = {**event.get_attributes(), "data": event.get_data()}
        said["time"] = datetime.fromisoformat(said["time"])
        if heard != said:
            sys.exit(f"{name}: {body}\nis read as {heard}")
        read += 1
if not read:
    sys.exit("there was nothing to read")
print(f"{read} CloudEvents are read by another library, too")
