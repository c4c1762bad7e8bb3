"""Sites that follow each other: stores, services, a proxy on each line from one to another; and how lines are broken."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from random import Random
from typing import Final

from tests.faults import proxy, site
from tests.faults.plan import Stores
from tests.faults.proxy import Proxy
from tests.faults.site import Servers, Site
from tests.faults.sites.plan import NODES, Break, Line, lines_of
from tests.faults.sites.records import Records, opened_file, opened_server
from tests.sites.deployments import secret_of

INTERVAL: Final = 5.0  # seconds between two comparisons with a site
SHORT: Final = {"log__max_count": "1000"}  # the least: who is cut off for long, starts over
_DELAY: Final = 0.25  # seconds that an answer takes longer


@dataclass(slots=True)
class League:
    """Everything of a run that can be broken. `lines` are by who asks, and whom."""

    sites: dict[str, Site]
    lines: dict[tuple[str, str], Proxy]
    records: dict[str, Records]
    told: list[tuple[float, float, Break]] = field(default_factory=list)
    _broken: dict[tuple[str, str], int] = field(default_factory=dict)

    async def break_lines(self, lane: Sequence[Break], until: asyncio.Event, began: float, rng: Random) -> None:
        """Each fault at its time, or as soon after it as the one before it is over."""
        for one in lane:
            if await _set_within(until, began + one.at - time.monotonic()):
                return
            start = time.monotonic() - began
            for pair in one.of(self.lines):
                self._broken[pair] = self._broken.get(pair, 0) + 1
                _DO[one.fault](self.lines[pair])
            await _set_within(until, one.seconds)
            for pair in one.of(self.lines):
                self._mend(pair, rng)
            self.told.append((start, time.monotonic() - began, one))

    def _mend(self, pair: tuple[str, str], rng: Random) -> None:
        """Once nothing else is wrong with it, now and then to another node than before."""
        self._broken[pair] -= 1
        if not self._broken[pair]:
            self.lines[pair].target = rng.choice(self.sites[pair[1]].machines).port
            self.lines[pair].heal()

    def heal(self) -> None:
        for line in self.lines.values():
            line.heal()


def _cut(line: Proxy) -> None:
    line.refusing = True
    line.cut()


def _slow(line: Proxy) -> None:
    line.delay = _DELAY


_DO: Final = {Line.CUT: _cut, Line.APART: _cut, Line.ALONE: _cut, Line.HELD: Proxy.hold, Line.SLOW: _slow}


@contextmanager
def started_stores(names: Sequence[str], stores: Stores) -> Iterator[dict[str, Servers]]:
    with ExitStack() as stack:
        yield {name: stack.enter_context(site.started_stores(stores)) for name in names}


@asynccontextmanager
async def opened(stores: dict[str, Servers], directory: Path) -> AsyncIterator[League]:
    """The sites, every node of them serving."""
    async with AsyncExitStack() as stack:
        lines = {pair: await stack.enter_async_context(proxy.opened(1)) for pair in lines_of(list(stores))}
        sites: dict[str, Site] = {}

        for name, servers in stores.items():
            home = directory / name
            home.mkdir()
            (home / "site.toml").write_text(_settings(name, lines))
            options = ("--config", str(home / "site.toml"))
            sites[name] = await stack.enter_async_context(
                site.laid_out(servers, home, nodes=NODES, options=options, others=SHORT)
            )
        await site.all_started([machine for one in sites.values() for machine in one.machines])
        for (_, told), line in lines.items():
            line.target = sites[told].machines[0].port
        yield League(sites, lines, {name: _records(one) for name, one in sites.items()})


def _records(site: Site) -> Records:
    if site.postgres is None:
        return Records(partial(opened_file, site.machines[0].directory))
    return Records(partial(opened_server, site.postgres.port))


def _settings(name: str, lines: dict[tuple[str, str], Proxy]) -> str:
    peers = [
        f'[sites.peers.{other}]\nurl = "http://127.0.0.1:{line.port}"\nsecret = "{secret_of(name, other)}"\n'
        for (asker, other), line in lines.items()
        if asker == name
    ]
    database = '[levels.database]\nurl = "sqlite:cache.db"\n'  # of a site over SQLite; the others are told in another way
    return f'[cluster]\nsite = "{name}"\n{database}[sites]\ninterval = {INTERVAL}\n' + "".join(peers)


async def _set_within(event: asyncio.Event, seconds: float) -> bool:
    with suppress(TimeoutError):
        async with asyncio.timeout(max(0.0, seconds)):
            await event.wait()
    return event.is_set()
