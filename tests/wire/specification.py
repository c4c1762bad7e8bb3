"""The messages of the specification, WebSocket Patterns for Real-time Data Synchronization, as it writes them down.

By type the members of the payload with what they may be, `?` where one may be left out. Nothing of this service is in here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

Members = Mapping[str, Any]

ACTION: Final = ("created", "updated", "deleted")
ANY: Final = object()  # anything, null too
VERSIONED: Final = {
    "id": str,
    "version": float,
    "data": ANY,
    "metadata": {"createdAt": str, "updatedAt": str, "updatedBy": str, "source": str},
    "conflictResolution?": dict,
}
PAYLOADS: Final[Mapping[str, Members]] = {
    "dashboard:update": {
        "module": ("tasks", "calendar", "email", "journal", "contacts"),
        "metric": str,
        "value": ANY,
        "change": {"previous": ANY, "current": ANY, "delta": float},
    },
    "task:update": {"action": ACTION, "task": ANY, "source": ("internal", "motion", "manual"), "conflict?": dict},
    "task:sync": {
        "syncId": str,
        "status": ("started", "progress", "completed", "error"),
        "progress": float,
        "processed": float,
        "total": float,
        "errors?": [str],
    },
    "calendar:update": {"action": ACTION, "event": ANY, "source": ("internal", "google"), "attendees?": [ANY]},
    "calendar:reminder": {
        "eventId": str,
        "title": str,
        "startTime": str,
        "reminderType": ("email", "popup"),
        "minutesBefore": float,
    },
    "email:new": {"message": ANY, "folder": str, "importance": ("low", "normal", "high")},
    "email:status": {"messageId": str, "status": ("read", "unread", "starred", "unstarred"), "changedBy": str},
    "contact:update": {"action": ACTION, "contact": ANY, "source": ("internal", "google"), "mergeConflict?": bool},
    "cache:invalidate": {"keys": [str], "pattern?": str, "cascade": bool},
    "cache:update": {
        "key": str,
        "value": ANY,
        "operation": ("set", "delete", "increment"),
        "ttl?": float,
        "distribute": bool,
    },
    "cache:sync": {"nodeId": str, "checksums": dict, "requestSync": [str]},
    "conflict:detect": {
        "entityType": ("task", "event", "contact", "journal"),
        "entityId": str,
        "versions": {"local": VERSIONED, "remote": VERSIONED, "external?": VERSIONED},
        "conflictType": ("version", "data", "schema"),
    },
    "conflict:auto-merge": {
        "conflictId": str,
        "strategy": ("field-level", "timestamp", "priority"),
        "result": {"merged": VERSIONED, "rejected": [VERSIONED], "accepted": [VERSIONED]},
    },
    "conflict:manual-resolution": {
        "conflictId": str,
        "options": [VERSIONED],
        "ui": {"title": str, "description": str, "fields": [str]},
    },
    "pong": {"timestamp": str, "sequenceNumber": float, "latency": float},
    "connection:status": {
        "status": ("connected", "disconnected", "reconnecting"),
        "reason?": str,
        "reconnectAttempts": float,
        "nextReconnectIn": float,
    },
    "connection:established": {"connectionId": str, "userId": str},
    "auth:challenge": {"nonce": str, "timestamp": str, "expiresAt": str},
    "rate-limit": {"limit": float, "remaining": float, "resetAt": str, "window": str},
    "error": {"code": str, "message": str, "details?": ANY, "recoverable": bool, "retryAfter?": float},
    "recovery:response": {"sequenceNumber": float, "data": ANY, "isComplete": bool},
    "batch:update": {"batchId": str, "updates": [dict], "compression": ("gzip", "brotli"), "totalSize": float},
}
# what clients send, as the specification's interfaces have it, every member given
SENT: Final[Mapping[str, Members]] = {
    "subscribe": {"resources": ["tasks"], "filters": {}, "throttle": 0},
    "unsubscribe": {"resources": ["tasks"]},
    "ping": {"timestamp": "2024-01-15T10:30:00Z", "sequenceNumber": 1},
    "cache:update": {"key": "task:1", "value": {"id": "1"}, "operation": "set", "ttl": 60, "distribute": True},
    "cache:invalidate": {"keys": ["task:1"], "pattern": "task:*", "cascade": True},
    "cache:warm": {"module": "tasks", "userId": "user_id_here", "dataTypes": ["list"]},
    "authz:check": {"resource": "task:1", "action": "read", "context": {}},
    "recovery:request": {"lastSequenceNumber": 0, "missingRanges": []},
}


def wrong(frame: Members) -> list[str]:
    """What a message has that the specification does not say of it."""
    found = [f"{name} is missing" for name in ("type", "payload", "timestamp") if name not in frame]
    found += _differs(frame["timestamp"], str, "timestamp")
    try:
        datetime.fromisoformat(frame["timestamp"])
    except ValueError:
        found.append("timestamp is no time of ISO 8601")
    kind = frame["type"]
    return [f"{kind}: {text}" for text in found + _differs(frame["payload"], PAYLOADS[kind], "payload")]


def _differs(value: Any, said: Any, place: str) -> list[str]:
    if said is ANY:
        return []
    if isinstance(said, tuple):
        return [] if value in said else [f"{place} is {value!r}, not one of {said}"]
    if isinstance(said, list):
        if not isinstance(value, list):
            return [f"{place} is no array"]
        return [text for index, item in enumerate(value) for text in _differs(item, said[0], f"{place}[{index}]")]
    if isinstance(said, Mapping):
        if not isinstance(value, dict):
            return [f"{place} is no object"]
        found = []
        for name, member in said.items():
            plain = re.sub(r"\?$", "", name)
            if plain in value:
                found += _differs(value[plain], member, f"{place}.{plain}")
            elif plain == name:
                found.append(f"{place}.{plain} is missing")
        return found
    fits = isinstance(value, int | float if said is float else said) and (said is bool or not isinstance(value, bool))
    return [] if fits else [f"{place} is {value!r}, no {said.__name__}"]
