"""Warming: what is to be brought up, from where, and how fast."""

from __future__ import annotations

import re
from collections.abc import Sequence
from enum import StrEnum
from typing import Final, NamedTuple

import orjson

from cachesvc.errors import InvalidInput
from cachesvc.model.keys import Key, module_of, parse_key

_PLACES: Final = re.compile(r"(\{[A-Za-z]+\})")


class WarmSource(StrEnum):
    """Fixed on the wire and on disk: add, never rename."""

    LOADER = "loader"
    DATABASE = "database"  # the authority, whichever that is
    PEER = "peer"


class Warming(NamedTuple):
    """A warm-up: these keys, or what matches a pattern; of a peer what it holds in memory, all of it or what matches.

    `rate` is in keys a second, `concurrency` how many keys a loader is asked for at once.
    """

    source: WarmSource
    keys: tuple[Key, ...] = ()
    pattern: str = ""  # "" for none
    peer: str = ""  # the id of a node, "" for the one that is there the longest
    rate: float = 10_000.0
    concurrency: int = 16

    @property
    def what(self) -> list[object]:
        """What it does, whatever the pace."""
        return [self.source.value, sorted(self.keys), self.pattern, self.peer]

    @property
    def title(self) -> str:
        what = f"{len(self.keys)} key{'s' if len(self.keys) > 1 else ''}" if self.keys else self.pattern or "what is hot"
        place = {WarmSource.LOADER: "loaders", WarmSource.DATABASE: "the authority", WarmSource.PEER: self.peer or "a peer"}
        return f"warm {what} from {place[self.source]}"


def pack_warming(warming: Warming) -> bytes:
    return orjson.dumps(warming._asdict())


def unpack_warming(packed: bytes) -> Warming:
    """What `pack_warming` wrote; names it does not know, of a newer version, are passed over."""
    said = orjson.loads(packed)
    known = {name: said[name] for name in Warming._fields if name in said}
    return Warming(**known)._replace(source=WarmSource(said["source"]), keys=tuple(map(Key, said["keys"])))


def keys_of(template: str, module: str, user: str, data_types: Sequence[str]) -> tuple[Key, ...]:
    """The keys of a module's data of one user. Raises `InvalidInput`, naming the member that makes a key none."""
    keys: dict[Key, None] = {}
    for place, data_type in enumerate(data_types):
        said = {"{module}": module, "{userId}": user, "{dataType}": data_type}
        text = "".join(said.get(part, part) for part in _PLACES.split(template))
        key = parse_key(text, field=f"dataTypes[{place}]")
        if module_of(key) != module:
            raise InvalidInput("module", "has a ':' in it, which no module has")
        keys[key] = None
    return tuple(keys)
