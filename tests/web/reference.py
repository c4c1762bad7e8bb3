"""The tables of the page on messages, made from the models."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final, Literal

from pydantic import BaseModel

from cachesvc.protocol.frames import RECEIVED
from cachesvc.protocol.messages import FROM_SERVER
from cachesvc.realtime.session import SERVED

Schema = Mapping[str, Any]
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


def members(section: str) -> set[str]:
    """What the tables of a section name."""
    return set(re.findall(r"^\| `([^`]+)` \|", section, re.MULTILINE))


def tables(kind: str) -> str:
    """What either side sends; nothing of what may be one of several objects."""
    made = []
    for side, shape, schema in _sides(kind):
        rows = ["| member | is | |", "|---|---|---|"]
        for name, member in _properties(shape).items():
            said = member.get("description", "")
            note = ", ".join(part for part in ("" if name in shape.get("required", ()) else "may be missing", said) if part)
            rows.append(f"| `{name}` | {_type(member, schema)} | {note} |".replace("  |", " |"))
        made.append(f"{side}:\n\n" + "\n".join(rows) + "\n\n")
    return "".join(made)


def properties(kind: str) -> tuple[set[str], set[str]]:
    """The members that a type has, and those of them that are always there."""
    shapes = [shape for _, shape, _ in _sides(kind)]
    required = {name for shape in shapes for name in shape.get("required", ())}
    every = {name for shape in shapes for name in _properties(shape)}
    return every, every & required


def _sides(kind: str) -> Iterator[tuple[str, Schema, Schema]]:
    """For each side that sends it the object that it sends, and the schema that this is of."""
    sides: list[tuple[str, type[BaseModel] | None, Literal["validation", "serialization"]]] = [
        ("A client sends", RECEIVED.get(kind) if kind in SERVED else None, "validation"),
        ("The service sends", FROM_SERVER.get(kind), "serialization"),
    ]
    for side, model, mode in sides:
        if model is not None:
            schema = model.model_json_schema(mode=mode)
            payload = schema["properties"].get("payload")
            shape = schema if payload is None else _resolved(payload, schema)
            if "properties" in shape:
                yield side, shape, schema


def _properties(shape: Schema) -> Schema:
    own = "payload" in shape["properties"] or "type" in shape["properties"]
    return {name: member for name, member in shape["properties"].items() if not own or name not in ENVELOPE}


def _resolved(part: Schema, schema: Schema) -> Schema:
    reference = part.get("$ref")
    return schema["$defs"][reference.rpartition("/")[2]] if reference else part


def _type(member: Schema, schema: Schema) -> str:
    return " or ".join(dict.fromkeys(_types(member, schema))) or "anything"


def _types(member: Schema, schema: Schema) -> Iterator[str]:
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
