"""Checked: what a loader says of a value holds to the same limits as what a client says."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, is_dataclass, replace

import orjson

from cachesvc.errors import InvalidInput, Unavailable
from cachesvc.model.entry import JSON
from cachesvc.model.keys import Key
from cachesvc.ports import Loaded
from cachesvc.protocol.api import check_ttl
from cachesvc.protocol.drafts import names
from cachesvc.protocol.exact import check_json
from cachesvc.protocol.values import content_type, is_json


def checked(loader: str, loaded: Loaded, *, most: int) -> Loaded:
    """The value if it may be kept. Raises `Unavailable`, which names the loader and never the value."""
    try:
        size = len(loaded.value)
        if size > most:
            raise InvalidInput("value", f"has {size} bytes; allowed are {most}")
        if loaded.ttl is not None:
            check_ttl(loaded.ttl)
        kind = content_type(loaded.content_type)
        if is_json(kind):
            check_json(loaded.value, field="value")
        tags, parents = (names(list(getattr(loaded, field)), field=field) for field in ("tags", "parents"))
        return replace(loaded, content_type=kind, tags=tags, parents=parents)
    except (InvalidInput, TypeError, AttributeError) as exc:
        raise Unavailable(f"loader {loader}: {exc}") from exc


def json_of(loader: str, value: object, default: Callable[[object], object] | None = None) -> bytes:
    """A value as JSON. Raises `Unavailable`, which names the loader, for what JSON cannot say."""
    try:
        text = orjson.dumps(value, default=default)
    except TypeError as exc:
        raise Unavailable(f"loader {loader}: a value is not JSON ({exc})") from exc
    if b"null" in text and not _finite(value):  # as which they would be written
        raise Unavailable(f"loader {loader}: a value is not JSON (it holds a number that is infinite or none)")
    return text


def _finite(value: object) -> bool:
    if isinstance(value, float):
        return math.isfinite(value)
    if isinstance(value, dict):
        return all(map(_finite, value.values()))
    if isinstance(value, list | tuple):
        return all(map(_finite, value))
    if is_dataclass(value) and not isinstance(value, type):
        return all(_finite(getattr(value, member.name)) for member in fields(value))
    return True


def had(found: Mapping[Key, Loaded | Unavailable], keys: Sequence[Key]) -> Mapping[Key, Loaded | Unavailable]:
    """What was found of those keys. Raises the failure of one that was asked for alone: then nothing could be had."""
    if len(keys) == 1 and isinstance(failed := found.get(keys[0]), Unavailable):
        raise failed
    return found


def media_type(text: str) -> str:
    """A content type as it is kept: JSON by its plain name, whatever is said of its charset."""
    return JSON if text.partition(";")[0].strip().lower() == JSON else text.strip(" \t;")
