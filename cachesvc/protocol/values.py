"""Values: their content types, and how they are carried within JSON.

JSON is carried as the bytes that are stored, never decoded and rendered anew.
"""

from __future__ import annotations

import re
from base64 import b64encode
from typing import Final

import orjson

from cachesvc.errors import InvalidInput
from cachesvc.model.entry import JSON, Entry

_TOKEN: Final = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"  # noqa: S105 - RFC 9110's word for it
_QUOTED: Final = r'"(?:[\t !\x23-\x5b\x5d-\x7e\x80-\xff]|\\[\t \x21-\x7e\x80-\xff])*"'
_MEDIA_TYPE: Final = re.compile(rf"{_TOKEN}/{_TOKEN}(?:[ \t]*;[ \t]*{_TOKEN}=(?:{_TOKEN}|{_QUOTED}))*")


def content_type(text: str) -> str:
    """A media type from outside, checked; JSON by its plain name."""
    if len(text) > 255 or not _MEDIA_TYPE.fullmatch(text):
        raise InvalidInput("Content-Type", "is not a media type of up to 255 characters")
    name, _, parameters = text.partition(";")
    name = name.strip().lower()
    if name != JSON:
        return text
    if parameters.strip().lower().replace('"', "") not in ("", "charset=utf-8"):
        raise InvalidInput("Content-Type", "must be application/json without parameters but charset=utf-8")
    return JSON


def is_json(content_type: str) -> bool:
    """Whether a value of this type is JSON, by RFC 8259 or a `+json` suffix (RFC 6839); any other is not looked into."""
    if content_type == JSON:
        return True
    name = content_type.partition(";")[0].strip().lower()
    return name == JSON or name.endswith("+json")


def value_members(entry: Entry) -> dict[str, object]:
    """A value within JSON: itself if it is JSON, else base64."""
    if is_json(entry.content_type):
        return {"contentType": entry.content_type, "value": orjson.Fragment(entry.value)}
    return {"contentType": entry.content_type, "encoding": "base64", "value": b64encode(entry.value).decode()}
