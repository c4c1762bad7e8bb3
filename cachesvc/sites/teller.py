"""Teller: what this site tells another that asks, by its log, or by comparing digests.

The rule that must not break: it keeps nothing of who asks. So any node can answer, and whoever was cut off asks again.
"""

from __future__ import annotations

import asyncio
import gzip
from base64 import b64encode
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import brotli
import orjson

from cachesvc.errors import EpochChanged, Forbidden, InvalidInput
from cachesvc.model.change import Change, Kind
from cachesvc.model.digest import DIGITS, NOTHING, Digest, Sum, parse_prefix, parse_sum
from cachesvc.model.entry import Entry, content_hash
from cachesvc.model.keys import Key
from cachesvc.model.position import Position, Seq, parse_position
from cachesvc.model.replica import shared
from cachesvc.ports import Clock, SiteStore
from cachesvc.protocol.frames import MAX_PREFIXES, CacheSyncPayload
from cachesvc.protocol.replicated import told
from cachesvc.sites.keeper import Keeper, Log
from cachesvc.sites.witness import Witness

WAIT: Final = 4.0  # seconds that who stands at the head waits for news
MOST: Final = 500  # changes of one answer
MOST_BYTES: Final = 256 << 10  # of its entries, after the first
_WORTH: Final = 1_024  # bytes that are worth compressing
_RATIO: Final = 150  # over which it is sent plain: the other side takes it for an attack


@dataclass(slots=True)
class TellerCounts:
    """Since the start of this node."""

    asked: int = 0
    refused: int = 0  # in another's name, or not to be understood
    changes: int = 0
    entries: int = 0
    compared: int = 0  # prefixes
    corrupt: int = 0  # entries that are not what their checksums say, and are not told


class Teller:
    """Answers `cache:sync` for the site of that name."""

    def __init__(
        self,
        store: SiteStore,
        log: Log,
        keeper: Keeper,
        clock: Clock,
        *,
        witness: Witness,
        site: str,
        peers: Collection[str],
        new_id: Callable[[], str],
        policies: str = "",
    ) -> None:
        self.counts = TellerCounts()
        self._store = store
        self._log = log
        self._keeper = keeper
        self._clock = clock
        self._witness = witness
        self._site = site
        self._peers = peers
        self._new_id = new_id
        self._policies = policies  # the fingerprint of how this site settles conflicts
        self._turn = asyncio.Semaphore(len(peers))  # digests compared at once: a flood waits for itself

    async def answer(self, asked: CacheSyncPayload, peer: str) -> tuple[str, dict[str, object]]:
        """The type and the payload of the answer to a site, which has proven to be `peer`.

        Raises `Forbidden`, `InvalidInput`, `PositionLost`, `Unavailable`.
        """
        if asked.node_id != peer or peer not in self._peers:
            reason = f"you have not proven to be {asked.node_id} of sites.peers, by its own secret there"
            raise Forbidden("node", "cache:sync", reason)
        self.counts.asked += 1
        if asked.position is not None:
            return "batch:update", await self._changes(asked, asked.position, peer)
        async with self._turn:
            if asked.request_sync:
                return "batch:update", await self._entries(asked)
            return "cache:sync", await self._compare(asked)

    # by the log

    async def _changes(self, asked: CacheSyncPayload, text: str, peer: str) -> dict[str, object]:
        if asked.seen:
            await self._witness.saw(parse_position(asked.seen, field="payload.seen"), who=peer)
        if not text:
            return self._batch([], asked, self._log.position) | {"policies": self._policies}
        after = parse_position(text, field="payload.position")
        if after.epoch != self._log.position.epoch:
            raise EpochChanged(after.epoch, self._log.position.epoch)
        try:
            async with asyncio.timeout(WAIT):
                changes = await self._log.next(after, MOST)
        except TimeoutError:
            return self._batch([], asked, after)
        found = await self._found(changes, peer, frozenset(asked.follows) | {peer})
        frames: list[bytes] = []
        size, upto, done = 0, after.sequence, set[Key]()
        for change in changes:
            more = [*self._messages(change, found, done)]
            if frames and size + sum(map(len, more)) > MOST_BYTES:
                break
            frames += more
            size += sum(map(len, more))
            upto = change.sequence
        self.counts.changes += len(changes)
        return self._batch(frames, asked, Position(after.epoch, Seq(upto)))

    async def _found(self, changes: Sequence[Change], peer: str, known: frozenset[str]) -> Mapping[Key, Entry]:
        """What there is now of the keys that are of the other site's concern; not what it, or one that it asks, has written."""
        keys = {key for change in changes if change.distribute for key in change.touches}
        if not keys:
            return {}
        horizon = Position(self._log.position.epoch, changes[-1].sequence)
        found = await self._store.get(keys, horizon=horizon)
        return {
            key: entry
            for key, held in found.items()
            if (entry := shared(held)) is not None
            and (entry.rivals or entry.origin is None or entry.origin.site not in known)
            and self._sound(entry)
        }

    def _messages(self, change: Change, found: Mapping[Key, Entry], done: set[Key]) -> Sequence[bytes]:
        """Of each key the newest that there is, once; of what is not a key itself."""
        frames = []
        for key in change.touches:
            if key in found and key not in done:
                done.add(key)
                frames.append(_frame("cache:update", told(found[key], self._site)))
        named, said = change.invalidation, change.publication
        if not change.distribute:
            return frames
        origin = {"site": self._site, "sequence": change.sequence}
        if named is not None and change.kind is Kind.INVALIDATE and not named.origin and (named.pattern or named.relates):
            payload = {"keys": list(named.keys) if named.cascade else [], "pattern": named.pattern or None, "tags": named.tags}
            frames.append(
                _frame(
                    "cache:invalidate",
                    {**payload, "cascade": named.cascade, "soft": named.soft, "at": change.at, "origin": origin},
                )
            )
        if said is not None:
            payload = {"resource": said.resource, "message": orjson.Fragment(said.message), "publishedBy": said.sender}
            frames.append(_frame("publish", {**payload, "origin": origin}))
        return frames

    # by digests

    async def _compare(self, asked: CacheSyncPayload) -> dict[str, object]:
        digest = await self._keeper.current()
        answers: dict[str, str] = {}
        for prefix, theirs in _sums(asked).items():
            self.counts.compared += 1
            if digest.sum(prefix) == theirs:
                continue
            below = digest.below(prefix) if len(prefix) < DIGITS else {prefix: digest.sum(prefix)}
            answers |= {name: str(found) for name, found in below.items()} or {prefix: str(NOTHING)}
        return {"nodeId": self._site, "checksums": answers, "requestSync": [], "position": str(self._keeper.applied)}

    async def _entries(self, asked: CacheSyncPayload) -> dict[str, object]:
        """The entries below prefixes, those that are the same there left out."""
        digest = await self._keeper.current()
        sums = _sums(asked)
        keys: list[Key] = []
        for place, text in enumerate(asked.request_sync):
            prefix = parse_prefix(text, field=f"payload.requestSync[{place}]")
            if digest.sum(prefix) != sums.get(prefix):
                keys.extend(_some(digest, prefix, MOST - len(keys)))
        found = await self._store.get(keys, horizon=self._log.position) if keys else {}
        frames: list[bytes] = []
        size = 0
        for held in found.values():
            entry = shared(held)
            if entry is None or not self._sound(entry):
                continue
            frame = _frame("cache:update", told(entry, self._site))
            if frames and size + len(frame) > MOST_BYTES:
                break  # the rest differs still, and is asked for again
            frames.append(frame)
            size += len(frame)
        return self._batch(frames, asked, self._keeper.applied or self._log.position)

    def _sound(self, entry: Entry) -> bool:
        sound = entry.deleted or content_hash(entry.content_type, entry.value) == entry.content_hash
        self.counts.corrupt += not sound
        return sound

    def _batch(self, frames: Sequence[bytes], asked: CacheSyncPayload, position: Position) -> dict[str, object]:
        self.counts.entries += len(frames)
        payload: dict[str, object] = {"batchId": self._new_id(), "nodeId": self._site, "position": str(position)}
        payload["head"] = str(self._log.position)
        text = b"[%b]" % b",".join(frames)
        if asked.compression is not None and len(text) >= _WORTH:
            data = gzip.compress(text, 5, mtime=0) if asked.compression == "gzip" else brotli.compress(text, quality=4)
            if len(data) * _RATIO > len(text):
                packed = {"updates": [], "data": b64encode(data).decode(), "compression": asked.compression}
                return payload | packed | {"totalSize": len(text)}
        return payload | {"updates": orjson.Fragment(text), "totalSize": len(text)}


def _sums(asked: CacheSyncPayload) -> dict[str, Sum]:
    if len(asked.checksums) > MAX_PREFIXES:
        raise InvalidInput("payload.checksums", f"has more than {MAX_PREFIXES} prefixes")
    return {
        parse_prefix(prefix, field="payload.checksums"): parse_sum(text, field=f"payload.checksums.{prefix}")
        for prefix, text in asked.checksums.items()
    }


def _some(digest: Digest, prefix: str, most: int) -> Sequence[Key]:
    keys: list[Key] = []
    for key, _ in digest.marks(prefix):
        if len(keys) >= most:
            break
        keys.append(key)
    return keys


def _frame(kind: str, payload: Mapping[str, object]) -> bytes:
    return orjson.dumps({"type": kind, "payload": payload})
