"""What a node of this site has to do with others: its digest, its answers to them, and how they are followed."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field

from cachesvc.errors import Forbidden, InvalidInput
from cachesvc.protocol.frames import CacheSyncPayload
from cachesvc.realtime.alarm import Alarm
from cachesvc.sites.keeper import Keeper
from cachesvc.sites.links import Links
from cachesvc.sites.report import SiteReport
from cachesvc.sites.teller import Teller

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class OwnSite:
    """This site, as one of its nodes has it."""

    name: str
    keeper: Keeper
    teller: Teller
    links: Links
    _alarm: Alarm = field(default_factory=lambda: Alarm(_log))

    @property
    def peers(self) -> Sequence[str]:
        return list(self.links.peers)

    async def answer(self, asked: CacheSyncPayload, peer: str) -> tuple[str, dict[str, object]]:
        """The answer to a node of another site. Raises as `Teller.answer` does; what is refused is logged and counted."""
        try:
            return await self.teller.answer(asked, peer)
        except (Forbidden, InvalidInput) as wrong:
            self.teller.counts.refused += 1
            self._alarm("what a node of the site %s asks is refused: %s", peer, wrong)
            raise

    async def ask(self, names: Sequence[str], *, within: float) -> tuple[dict[str, SiteReport], bool]:
        """Have these compared with now; what came of it within so many seconds, and whether that is all."""
        return await self.links.ask(names, within=within)

    def told(self) -> dict[str, dict[str, object]]:
        """The latest comparison with each site, on this node."""
        return {name: peer.latest.told() for name, peer in self.links.peers.items() if peer.latest is not None}

    def stats(self) -> dict[str, object]:
        """Counts since the start of this node."""
        keeper = self.keeper
        return {
            "digest": {
                "entries": len(keeper.digest) if keeper.applied is not None else 0,
                "built": keeper.built,
                "seconds": keeper.seconds,
            },
            "told": asdict(self.teller.counts),
            "peers": {name: asdict(peer.counts) | {"lag": peer.lag} for name, peer in self.links.peers.items()},
        }
