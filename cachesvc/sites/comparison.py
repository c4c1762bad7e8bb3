"""Comparison: finds where this site differs from another by their digests, and takes in what the other has.

Each site does this by itself, so that what one lacks it fetches. The rule that must not break: only what differs on a second
look is repaired, when all is taken in that the other's log had at the first; so what is on its way is never taken for a fault.
Nor is what a third site wrote, which that one tells by its log itself: while it is out of reach, it comes by way of the other.
Nor is what ended at one of the two alone, since it was written there or here beside the invalidation that ended it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Iterator, Sequence
from typing import Final

from cachesvc.errors import CacheError, InvalidInput, Overloaded
from cachesvc.model.digest import DIGITS, Digest, Sum, hashed, parse_prefix, parse_sum
from cachesvc.model.position import Position, parse_position
from cachesvc.model.replica import mark_of, origin_of
from cachesvc.ports import Clock, Link, Reply
from cachesvc.protocol.api import parse
from cachesvc.protocol.frames import MAX_PREFIXES, CacheSyncPayload
from cachesvc.sites.intake import Intake
from cachesvc.sites.keeper import Keeper
from cachesvc.sites.report import SiteReport

PATIENCE: Final = 300  # times, a second apart, that the other is asked again while it builds its digest
MOST_ROUNDS: Final = 1_000_000  # no store has more; who answers for ever is left


def check_name(said: str, peer: str) -> None:
    """Raises `InvalidInput` where another site answers than is asked."""
    if said != peer:
        raise InvalidInput("nodeId", f"is {said[:64]}: [sites.peers.{peer}] url leads to another site")


class Comparison:
    """Compares with one other site. `caught_up(position)` waits until that site's log has been taken in up to there.

    `others` are the sites that this one follows besides: the other's log does not tell of their writes.
    """

    def __init__(
        self,
        keeper: Keeper,
        intake: Intake,
        clock: Clock,
        *,
        site: str,
        peer: str,
        others: Collection[str],
        caught_up: Callable[[Position], Awaitable[None]],
        pace: Callable[[int], Awaitable[None]],
    ) -> None:
        self._keeper = keeper
        self._intake = intake
        self._clock = clock
        self._site = site
        self._peer = peer
        self._others = others
        self._caught_up = caught_up
        self._pace = pace

    async def run(self, link: Link, report: SiteReport) -> SiteReport:
        """Compare, repair, and say what came of it. An error ends it early and is told in the report."""
        began = self._clock.monotonic()
        try:
            digest = await self._keeper.current()
            report.entries = len(digest)
            suspects, position = await self._differing(link, digest, report)
            report.differing = len(suspects)
            if suspects:
                await self._caught_up(position)
                await self._look_again(link, suspects, report)
        except CacheError as exc:
            report.error = str(exc)
        report.seconds = self._clock.monotonic() - began
        return report

    async def _differing(self, link: Link, digest: Digest, report: SiteReport) -> tuple[dict[str, Sum], Position]:
        """What the other has below the prefixes of single keys of which this site has something else, and its position then."""
        suspects: dict[str, Sum] = {}
        position: Position | None = None
        waiting = [""]
        while waiting:
            asked, waiting = waiting[-MAX_PREFIXES:], waiting[:-MAX_PREFIXES]
            sums = {prefix: str(digest.sum(prefix)) for prefix in asked}
            reply = await self._ask(link, {"checksums": sums, "requestSync": []}, report)
            if reply.type != "cache:sync":
                raise InvalidInput("type", f"of the answer of {self._peer} is not cache:sync")
            said = parse(CacheSyncPayload, reply.payload)
            check_name(said.node_id, self._peer)
            position = parse_position(said.position or "", field="payload.position")
            for prefix, theirs in self._below(said, asked):
                if theirs.entries == 0 or digest.sum(prefix) == theirs:
                    continue
                if len(prefix) == DIGITS:
                    suspects[prefix] = theirs
                else:
                    waiting.append(prefix)
        assert position is not None
        return suspects, position

    def _below(self, said: CacheSyncPayload, asked: Sequence[str]) -> Iterator[tuple[str, Sum]]:
        """What was answered, each longer than what it is the answer to: so a walk comes to an end, whatever is answered."""
        known = set(asked)
        for text, told in said.checksums.items():
            prefix = parse_prefix(text, field="payload.checksums")
            theirs = parse_sum(told, field="payload.checksums")
            itself = prefix in known and (len(prefix) == DIGITS or theirs.entries == 0)
            if not itself and not any(prefix[:length] in known for length in range(len(prefix))):
                raise InvalidInput("payload.checksums", f"has prefixes that {self._peer} was not asked for")
            yield prefix, theirs

    async def _look_again(self, link: Link, suspects: dict[str, Sum], report: SiteReport) -> None:
        """Ask for what differs still. What was refused, or waits, or did not come, is not asked for twice."""
        digest = await self._keeper.current()
        waiting = [prefix for prefix, theirs in suspects.items() if digest.sum(prefix) != theirs]
        while waiting:
            asked, waiting = waiting[:MAX_PREFIXES], waiting[MAX_PREFIXES:]
            digest = await self._keeper.current()
            sums = {prefix: str(digest.sum(prefix)) for prefix in asked}
            reply = await self._ask(link, {"checksums": sums, "requestSync": asked}, report)
            taken = await self._intake.take(reply)
            report.held += len(taken.held)
            report.refused += taken.refused
            for key, entry in taken.news.items():
                looked_at = suspects.get(hashed(key))
                if looked_at is not None and looked_at.total == int.from_bytes(mark_of(entry, self._peer)):
                    ended = key in taken.ends
                    relayed = not (ended or entry.rivals) and origin_of(entry, self._peer).site in self._others
                    report.ended += ended
                    report.relayed += relayed
                    report.repaired += not (ended or relayed)
            came = {hashed(key) for key in taken.came}
            rest = [prefix for prefix in asked if prefix not in came]
            if came:  # one answer holds no more than a few large values
                waiting = [*rest, *waiting]

    async def _ask(self, link: Link, payload: dict[str, object], report: SiteReport) -> Reply:
        report.rounds += 1
        if report.rounds > MOST_ROUNDS:
            raise InvalidInput("payload.checksums", f"of {self._peer} come to no end")
        reply = await self._answered(link, {"nodeId": self._site, "compression": "gzip", **payload})
        report.sent += reply.asked
        report.received += len(reply.text)
        await self._pace(len(reply.text))
        return reply

    async def _answered(self, link: Link, payload: dict[str, object]) -> Reply:
        for _ in range(PATIENCE):
            try:
                return await link.ask(payload)
            except Overloaded as busy:
                await self._clock.sleep(busy.retry_after)
        return await link.ask(payload)
