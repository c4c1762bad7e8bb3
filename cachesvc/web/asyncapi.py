"""The AsyncAPI document of the socket, made from the models that validate what clients send and test what they are sent."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

from pydantic.json_schema import models_json_schema

from cachesvc.protocol.frames import RECEIVED
from cachesvc.protocol.messages import FROM_SERVER
from cachesvc.protocol.pushed import message_of
from cachesvc.realtime.session import SERVED
from cachesvc.web.live import PATH

Document = dict[str, Any]
_SCHEMAS: Final = "#/components/schemas/{model}"
_SENT: Final = "client."
_TOLD: Final = "server."


def document(version: str, added: Mapping[str, str] = MappingProxyType({})) -> Document:
    """Version 3 of AsyncAPI; an operation's action is that of the server. `added` are the modules of the settings."""
    taken = {kind: model for kind, model in RECEIVED.items() if kind in SERVED}
    sent, sent_schemas = models_json_schema([(model, "validation") for model in taken.values()], ref_template=_SCHEMAS)
    pushed = {**{kind: message_of(kind, entity) for kind, entity in added.items()}, **FROM_SERVER}
    told, told_schemas = models_json_schema([(model, "serialization") for model in pushed.values()], ref_template=_SCHEMAS)
    messages: Document = {}
    schemas: Document = {}
    for prefix, models, refs, made in (
        (_SENT, taken, sent, sent_schemas),
        (_TOLD, pushed, told, told_schemas),
    ):
        for name, schema in made["$defs"].items():
            schemas[f"{prefix}{name}"] = _moved(schema, prefix)
        for kind, model in models.items():
            mode = "validation" if prefix == _SENT else "serialization"
            messages[f"{prefix}{kind.replace(':', '-')}"] = {
                "name": kind,
                "summary": (model.__doc__ or kind).strip(),
                "contentType": "application/json",
                "payload": _moved(refs[(model, mode)], prefix),  # type: ignore[index] # a literal, as it was asked for
            }
    places = {name: {"$ref": f"#/components/messages/{name}"} for name in messages}
    return {
        "asyncapi": "3.0.0",
        "info": {"title": "cachesvc", "version": version},
        "defaultContentType": "application/json",
        "channels": {"realtime": {"address": PATH, "messages": places}},
        "operations": {
            "commands": _operation("receive", [name for name in messages if name.startswith(_SENT)]),
            "messages": _operation("send", [name for name in messages if name.startswith(_TOLD)]),
        },
        "components": {"messages": messages, "schemas": schemas},
    }


def _operation(action: str, names: list[str]) -> Document:
    channel = "#/channels/realtime"
    return {
        "action": action,
        "channel": {"$ref": channel},
        "messages": [{"$ref": f"{channel}/messages/{name}"} for name in names],
    }


def _moved(schema: Any, prefix: str) -> Any:
    """The schema with its references to those of one side: both sides have models of the same name."""
    if isinstance(schema, dict):
        start = "#/components/schemas/"
        return {
            name: value.replace(start, f"{start}{prefix}") if name == "$ref" else _moved(value, prefix)
            for name, value in schema.items()
        }
    return [_moved(item, prefix) for item in schema] if isinstance(schema, list) else schema
