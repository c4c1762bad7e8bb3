"""Golden frames: one of each type as it was first promised, on disk. What a client relies on does not change by accident.

To promise a new one: `GOLDEN=write .venv/bin/python -m pytest tests/wire tests/realtime`, and read the difference.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import orjson

from cachesvc.protocol.messages import FROM_SERVER

PLACE = Path(__file__).parent / "golden"


def name_of(kind: str, direction: str) -> Path:
    return PLACE / f"{direction}.{kind.replace(':', '-')}.json"


def read(kind: str, direction: str) -> dict[str, Any]:
    frame: dict[str, Any] = orjson.loads(name_of(kind, direction).read_bytes())
    return frame


def check(frame: bytes) -> dict[str, Any]:
    """A frame that the server sent is the golden one of its type, member by member, and as its model says."""
    sent: dict[str, Any] = orjson.loads(frame)
    kind = sent["type"]
    FROM_SERVER[kind].model_validate(sent)
    if os.environ.get("GOLDEN") == "write":
        name_of(kind, "server").write_bytes(orjson.dumps(sent, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))
    assert sent == read(kind, "server")
    return sent
