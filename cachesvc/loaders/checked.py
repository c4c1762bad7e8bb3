"""Checked: what a loader says of a value holds to the same limits as what a client says."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Final

import orjson

from cachesvc.errors import InvalidInput, Unavailable
from cachesvc.model.entry import JSON
from cachesvc.model.keys import Key, parse_name
from cachesvc.ports import Loaded
from cachesvc.protocol.api import check_ttl
from cachesvc.protocol.exact import check_json

_MEDIA_TYPE: Final = re.compile(r"[!-~]{1,127}/[ -~]{1,127}")
MAX_NAMES: Final = 1_000


def checked(loader: str, loaded: Loaded, *, most: int) -> Loaded:
    """The value if it may be kept. Raises `Unavailable`, which names the loader and never the value."""
    try:
        size = len(loaded.value)
        if size > most:
            raise InvalidInput("value", f"has {size} bytes; allowed are {most}")
        if loaded.ttl is not None:
            check_ttl(loaded.ttl)
        if not _MEDIA_TYPE.fullmatch(loaded.content_type):
            raise InvalidInput("content_type", "is not a media type of up to 255 characters")
        for field in ("tags", "parents"):
            names = getattr(loaded, field)
            if len(names) > MAX_NAMES:
                raise InvalidInput(field, f"has {len(names)} names; allowed are {MAX_NAMES}")
            for name in names:
                parse_name(name, field=field)
        if loaded.content_type == JSON:
            check_json(loaded.value, field="value")
    except (InvalidInput, TypeError, AttributeError) as exc:
        raise Unavailable(f"loader {loader}: {exc}") from exc
    return loaded


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
    return JSON if text.partition(";")[0].strip().lower() == JSON else text.strip()
