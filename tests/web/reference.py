"""The tables of the page on messages, made from the models."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

from pydantic import BaseModel

from cachesvc.protocol.frames import FROM_CLIENTS
from cachesvc.protocol.messages import FROM_SERVER
from cachesvc.realtime.session import SERVED

ENVELOPE: Final = frozenset(("type", "timestamp", "requestId", "correlationId", "seq", "version", "epoch", "position"))
_SECTION: Final = re.compile(r"^### `([^`]+)`$(.*?)(?=^##|\Z)", re.MULTILINE | re.DOTALL)
_TABLES: Final = re.compile(
    r"(?:<!-- members -->\n\n|(?:^(?:A client sends|The service sends):\n\n|^\|[^\n]*\n)+\n?)+", re.MULTILINE
)


def sections(page: str) -> Mapping[str, str]:
    """By type what the page says of it."""
    return {found[1]: found[2] for found in _SECTION.finditer(page)}


def filled(page: str) -> str:
    """The page with its tables as the models have them."""

    def fill(section: re.Match[str]) -> str:
        text = _TABLES.sub("", section[2])
        return f"### `{section[1]}`" + text.replace("\n```frames", f"\n{tables(section[1])}```frames", 1)

    return _SECTION.sub(fill, page)


def tables(kind: str) -> str:
    """What either side sends."""
    sides: list[tuple[str, type[BaseModel] | None, str]] = [
        ("A client sends", FROM_CLIENTS.get(kind) if kind in SERVED else None, "validation"),
        ("The service sends", FROM_SERVER.get(kind), "serialization"),
    ]
    return "".join(f"{side}:\n\n{_table(model, mode)}\n" for side, model, mode in sides if model is not None)


def _table(model: type[BaseModel], mode: Any) -> str:
    schema = model.model_json_schema(mode=mode)
    shapes = _payloads(schema)
    rows = ["| member | is | |", "|---|---|---|"]
    for shape in shapes:
        required = shape.get("required", ())
        for name, member in shape.get("properties", {}).items():
            if shape is schema and name in ENVELOPE:
                continue
            said = member.get("description", "")
            note = ", ".join(part for part in ("" if name in required else "may be missing", said) if part)
            rows.append(f"| `{name}` | {_type(member, schema)} | {note} |".replace("  |", " |"))
    return "\n".join(rows) + "\n"


def _payloads(schema: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The objects that a payload may be, or the message itself where it has none."""
    payload = schema["properties"].get("payload")
    if payload is None:
        return [schema]
    return [_resolved(option, schema) for option in payload.get("anyOf", [payload])]


def _resolved(part: Mapping[str, Any], schema: Mapping[str, Any]) -> Mapping[str, Any]:
    reference = part.get("$ref")
    return schema["$defs"][reference.rpartition("/")[2]] if reference else part


def _type(member: Mapping[str, Any], schema: Mapping[str, Any]) -> str:
    return " or ".join(dict.fromkeys(_types(member, schema))) or "anything"


def _types(member: Mapping[str, Any], schema: Mapping[str, Any]) -> Iterator[str]:
    member = _resolved(member, schema)
    if "const" in member:
        yield f"`{member['const']}`".lower() if isinstance(member["const"], bool) else f"`{member['const']}`"
    elif "enum" in member:
        yield from (f"`{value}`" for value in member["enum"])
    elif "anyOf" in member:
        for option in member["anyOf"]:
            yield from _types(option, schema)
    elif member.get("type") == "array":
        items = member.get("items", {})
        yield f"array of {_type(items, schema)}"
    elif "properties" in member:
        yield f"object of {', '.join(f'`{name}`' for name in member['properties'])}"
    elif isinstance(member.get("type"), list):
        yield from member["type"]
    elif "type" in member:
        yield member["type"]
