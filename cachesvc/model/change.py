"""Changes, which the log records, and drafts, which ask for them.

A draft becomes a change (with a sequence, which is the version of what it wrote) or a refusal. A change never changes.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum
from typing import Any, Final, NamedTuple

import orjson

from cachesvc.errors import Refused
from cachesvc.model.agenda import Called
from cachesvc.model.entry import ANONYMOUS, JSON, Entry, pack_fields, unpack_fields
from cachesvc.model.invalidation import Invalidation
from cachesvc.model.keys import Key
from cachesvc.model.position import Position, Seq, Version
from cachesvc.model.revocation import Revocation, revocation_of

MAX_RECORDED_VALUE: Final = 64 * 1024  # a larger value is read from the entry
OPENING: Final = 64  # bytes in which a record has said whose it is
_OPENING: Final = re.compile(rb'\{"i":"([^"]*)"')


class Kind(StrEnum):
    """What a record of the log says. Fixed on the wire and on disk: add, never rename."""

    WRITE = "write"
    DELETE = "delete"
    FILL = "fill"
    EXPIRE = "expire"
    INVALIDATE = "invalidate"
    RETIRE = "retire"
    PUBLISH = "publish"
    REVOKE = "revoke"


class Operation(StrEnum):
    """What a draft asks for."""

    SET = "set"
    DELETE = "delete"
    INCREMENT = "increment"
    FILL = "fill"
    ABSENT = "absent"  # a loader found nothing: a fill too
    EXPIRE = "expire"
    INVALIDATE = "invalidate"
    RETIRE = "retire"
    RESTORE = "restore"
    MERGE = "merge"  # what another site has
    PUBLISH = "publish"
    REVOKE = "revoke"
    RESOLVE = "resolve"  # settles a conflict by hand
    DUE = "due"  # an item of the agenda is


class Idempotency(NamedTuple):
    """An idempotency key: whose, which, a checksum of the request it stands for, and which write of that request.

    An empty key is none: the answer is then only found by its batch and place (`request_id`).
    """

    subject: str
    key: str
    fingerprint: str
    place: int = 0

    @property
    def request(self) -> tuple[str, str]:
        """What the answer to the request's first write is kept under: it tells whether the key came before."""
        return self.subject, self.key

    @property
    def answer(self) -> tuple[str, str]:
        """What the answer to this write is kept under. No key of a client has a control character."""
        return self.subject, f"{self.key}\x1f{self.place}" if self.place else self.key


class Publication(NamedTuple):
    """A message that is no entry: to which resource's subscribers, its JSON text, and who sent it ("": nobody known).

    One of a `type` is the payload of a message of that type; clients cannot send such. `about` is the entry that such a one is
    about, as it was then: filters look into it as into a change of that entry.
    """

    resource: str
    message: bytes
    sender: str = ""
    type: str = ""
    about: Entry | None = None

    @property
    def size(self) -> int:
        """Bytes of what it carries."""
        return len(self.message) + (self.about.size if self.about is not None else 0)


ABSENT: Final = Version(0)
PRESENT: Final = Version(-1)
NO_KEY: Final = Key("")


class Draft(NamedTuple):
    """One wish: what should happen to one key, and under which conditions; or an invalidation, which has no key of its own.

    A NamedTuple: as immutable as a frozen dataclass, built five times as fast.

    `ttl` is in seconds, None for the authority's default (an increment of a live entry keeps its expiry instead).
    `expected` is the version the entry must have, `ABSENT` or `PRESENT`, None for any. `base` is the version that the
    writer started from: another current version is a conflict, settled by policy, not refused.
    `token` is the position before the value was computed; it is refused if anything it depends on changed since.
    """

    operation: Operation
    key: Key
    value: bytes = b""
    content_type: str = JSON
    amount: Decimal = Decimal(1)
    ttl: float | None = None
    tags: tuple[str, ...] = ()
    parents: tuple[str, ...] = ()
    expected: Version | None = None
    base: Version | None = None
    token: Position | None = None
    idempotency: Idempotency | None = None
    distribute: bool = True
    actor: str = ""
    source: str = ""
    invalidation: Invalidation | None = None
    publication: Publication | None = None
    # what a restore brings back: its version is to be newer than all that is known of the key; or what another site has
    original: Entry | None = None
    revocation: Revocation | None = None
    called: Called | None = None


def restore(entry: Entry) -> Draft:
    """A draft that brings an entry of a snapshot back."""
    return Draft(Operation.RESTORE, entry.key, entry.value, entry.content_type, original=entry, actor="restore")


def merge(entry: Entry, *, peer: str) -> Draft:
    """A draft that takes in what another site has, as `peer` told it."""
    return Draft(Operation.MERGE, entry.key, entry.value, entry.content_type, original=entry, source=peer)


def actor_of(subject: str) -> str:
    """The subject as what it writes keeps it: "" for who is anonymous."""
    return subject if subject != ANONYMOUS else ""


def invalidate(
    invalidation: Invalidation, *, idempotency: Idempotency | None = None, actor: str = "", source: str = ""
) -> Draft:
    """A draft that invalidates, or retires an invalidation."""
    operation = Operation.RETIRE if invalidation.retires else Operation.INVALIDATE
    return Draft(operation, NO_KEY, invalidation=invalidation, idempotency=idempotency, actor=actor, source=source)


def revoke(revocation: Revocation) -> Draft:
    """A draft that ends what tokens are believed. Other sites are not told: each has its own."""
    return Draft(Operation.REVOKE, NO_KEY, distribute=False, revocation=revocation)


def publish(publication: Publication, *, distribute: bool = True) -> Draft:
    """A draft that sends a message."""
    return Draft(Operation.PUBLISH, NO_KEY, publication=publication, distribute=distribute)


def resolve(name: str, key: Key, *, option: int | None, value: bytes = b"") -> Draft:
    """A draft that settles the conflict of that item: one of its options is taken, or a value given."""
    return Draft(Operation.RESOLVE, key, value, called=Called(name, option=option))


def due(name: str, at: float, key: Key = NO_KEY) -> Draft:
    """A draft that looks at an item that was due then; `key` is of the entry that it is about."""
    return Draft(Operation.DUE, key, called=Called(name, at))


class Change(NamedTuple):
    """One record of the log. A NamedTuple: as immutable as a frozen dataclass, built five times as fast.

    `id` is unique among all changes ever made (`batch` and the place in it), so that two histories are told apart.
    `entry` is what the key became: None for kinds that write no entry. With `value_held` False the entry's value is
    empty here and is read from the entry, at this version. `before` is the content hash that it replaced (None: there
    was no live entry), so `before == entry.content_hash` says that the content is unchanged. `previous` is what the fold was
    asked to remember of the content that it replaced (`Terms.remembers`), as a JSON text.
    """

    sequence: Seq
    kind: Kind
    id: str
    at: float
    key: Key | None = None
    entry: Entry | None = None
    value_held: bool = True
    before: bytes | None = None
    distribute: bool = True
    conflict: str = ""  # the id of the conflict that this write made, "" for none
    invalidation: Invalidation | None = None
    publication: Publication | None = None
    previous: bytes | None = None
    revocation: Revocation | None = None

    @property
    def size(self) -> int:
        """Bytes it is counted for where changes are held: its value, the keys that it names, and 300 for the rest."""
        named = self.invalidation.keys if self.invalidation is not None else ()
        said = self.publication.size if self.publication is not None else 0
        return 300 + said + (len(self.entry.value) if self.entry is not None else 0) + sum(map(len, named))

    @property
    def touches(self) -> tuple[Key, ...]:
        """The keys of which nothing older than this change may be served. What a pattern touches is told by the pattern."""
        if self.key is not None:
            return (self.key,)
        return self.invalidation.keys if self.invalidation is not None else ()


class Receipt(NamedTuple):
    """What a writer is told: the version, and what was there before.

    `value` is the result of an increment. `conflict` is the id of the conflict that the write made, "" for none.
    """

    operation: Operation
    version: Version
    found: bool = False  # a live entry was there before
    value: bytes | None = None
    conflict: str = ""
    matched: int = 0  # entries that an invalidation hit, named by key or tag; 1 where what another site told was news
    # entries that it hit since they depended on what is named; 1 where such news is that what nobody wrote ended at one site
    cascaded: int = 0


@dataclass(frozen=True, slots=True)
class Appended:
    """What an append did: one outcome for each draft, in order, and the changes it put into the log.

    `before` is the log's position right before, so that a follower standing there may go on from `changes` directly.
    `batch` is the id under which the authority remembers the outcomes: outcome *i* is asked for by `request_id(batch, i)`.
    `replayed` holds the places of the outcomes that are answers given before, to the same idempotency key.
    """

    before: Position
    batch: str
    changes: Sequence[Change]
    outcomes: Sequence[Receipt | Refused]
    replayed: frozenset[int] = frozenset()


def request_id(batch: str, place: int) -> str:
    """The id that an answer carries and that, sent as `Idempotency-Key`, finds the answer again."""
    return f"{batch}-{place}"


# How a change is written down: columns or fields for what is searched, one JSON object for the rest.


def pack_change(change: Change) -> tuple[bytes, bytes | None]:
    """`(record, value)`: all but sequence, kind and key as JSON bytes, and the value or None when it is not held."""
    record: dict[str, object] = {"i": change.id, "a": change.at}
    if change.before is not None:
        record["b"] = change.before.hex()
    if not change.distribute:
        record["l"] = True
    if change.conflict:
        record["c"] = change.conflict
    if change.invalidation is not None:
        *named, origin, _ = change.invalidation  # what was later has been left out of the keys
        record["n"] = [*named, origin] if origin else named
    if change.publication is not None:
        record["m"] = _packed_publication(change.publication)
    if change.revocation is not None:
        record["v"] = list(change.revocation)
    if change.previous is not None:
        record["p"] = change.previous.decode()
    entry = change.entry
    if entry is None:
        return orjson.dumps(record), None
    record["e"] = pack_fields(entry)
    held = change.value_held and len(entry.value) <= MAX_RECORDED_VALUE
    return orjson.dumps(record), entry.value if held else None


def opening(change_id: str) -> bytes:
    """What the record of that change begins with, so that a store can tell two histories apart without reading it."""
    return orjson.dumps({"i": change_id})[:-1]


def opened_by(record: bytes) -> str:
    """The id of the change whose record begins so; `OPENING` bytes of it are enough. "" where it is none."""
    found = _OPENING.match(record)
    return found[1].decode() if found is not None else ""


def unpack_change(sequence: int, kind: str, key: str | None, record: bytes, value: bytes | None) -> Change:
    """The change that `pack_change` wrote; names it does not know, of a newer version, are passed over."""
    said = orjson.loads(record)
    fields = said.get("e")
    entry: Entry | None = None
    if fields is not None and key is not None:
        entry = unpack_fields(Key(key), Version(sequence), value or b"", fields)
    before, named = said.get("b"), said.get("n")
    published, previous = said.get("m"), said.get("p")
    return Change(
        Seq(sequence),
        Kind(kind),
        said["i"],
        said["a"],
        Key(key) if key is not None else None,
        entry,
        value_held=value is not None or entry is None,
        before=bytes.fromhex(before) if before is not None else None,
        distribute=not said.get("l", False),
        conflict=said.get("c", ""),
        invalidation=_invalidation(named) if named is not None else None,
        publication=_publication(published) if published is not None else None,
        previous=previous.encode() if previous is not None else None,
        revocation=revocation_of(said["v"]) if "v" in said else None,
    )


def _packed_publication(said: Publication) -> list[object]:
    packed: list[object] = [said.resource, said.message.decode(), said.sender]
    if said.type:
        packed.append(said.type)
    if said.about is not None:
        packed.append([said.about.key, said.about.version, said.about.value.decode(), pack_fields(said.about)])
    return packed


def _publication(said: Sequence[Any]) -> Publication:
    resource, message, sender, kind, about = (*said, *("", None)[len(said) - 3 :])[:5]
    return Publication(resource, message.encode(), sender, kind, _about(*about) if about is not None else None)


def _about(key: str, version: int, value: str, fields: Sequence[Any]) -> Entry:
    return unpack_fields(Key(key), Version(version), value.encode(), fields)


def _invalidation(named: Sequence[Any]) -> Invalidation:
    pattern, keys, tags, cascade, retires, *rest = named  # records of an older version do not say the last ones
    soft, origin = (*rest, *(False, "")[len(rest) :])[:2]
    return Invalidation(pattern, tuple(map(Key, keys)), tuple(tags), cascade, Seq(retires), soft, origin)
