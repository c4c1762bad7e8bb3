"""Sites as processes: each `cachesvc serve` over a SQLite of its own, with a proxy before it through which the others come."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import httpx

from tests.e2e.services import started
from tests.faults.proxy import Proxy, opened
from tests.processes.services import LIMIT, Service

SECRETS = "a secret that {} and {} share, and nobody else has"


@dataclass
class Deployment:
    """One site. What it tells others goes through `proxy`."""

    name: str
    url: str
    service: Service
    client: httpx.AsyncClient
    proxy: Proxy

    async def put(self, key: str, value: object, **query: str) -> int:
        answer = await self.client.put(f"/v1/cache/{key}", json=value, params=query)
        assert answer.status_code in (200, 201), answer.text
        return int(answer.json()["version"])

    async def delete(self, key: str) -> None:
        assert (await self.client.delete(f"/v1/cache/{key}")).status_code in (200, 204)

    async def increment(self, key: str, amount: int = 1) -> None:
        answer = await self.client.post(f"/v1/cache/{key}", json={"operation": "increment", "value": amount})
        assert answer.status_code in (200, 201), answer.text

    async def get(self, key: str) -> object:
        answer = await self.client.get(f"/v1/cache/{key}")
        assert answer.status_code in (200, 404), answer.text
        return answer.json() if answer.status_code == 200 else None

    async def stats(self, peer: str) -> dict[str, float]:
        found: dict[str, float] = (await self.client.get("/v1/stats")).json()["sites"]["peers"][peer]
        return found

    def cut(self) -> None:
        """Nobody comes through to it any more."""
        self.proxy.refusing = True
        self.proxy.cut()

    def heal(self) -> None:
        self.proxy.heal()


def secret_of(one: str, other: str) -> str:
    return SECRETS.format(*sorted((one, other)))


@asynccontextmanager
async def deployed(folder: Path, *names: str, databases: Sequence[str] = (), more: str = "") -> AsyncIterator[list[Deployment]]:
    """Sites of these names that follow each other, all connected; `more` is of the settings."""
    async with AsyncExitStack() as stack:
        proxies = {name: await stack.enter_async_context(opened(1)) for name in names}
        sites = []
        for place, name in enumerate(names):
            home = folder / name
            home.mkdir()
            database = databases[place] if databases else "sqlite:cache.db"
            peers = "\n".join(
                f'[sites.peers.{other}]\nurl = "http://127.0.0.1:{proxies[other].port}"\nsecret = "{secret_of(name, other)}"'
                for other in names
                if other != name
            )
            (home / "site.toml").write_text(
                f'[cluster]\nsite = "{name}"\n[levels.redis]\nenabled = false\n[levels.database]\nurl = "{database}"\n'
                f"{more}\n[sites]\ninterval = 3600\n{peers}\n"
            )
            service, url = stack.enter_context(started(home / "data", "--config", str(home / "site.toml")))
            client = await stack.enter_async_context(httpx.AsyncClient(base_url=url, timeout=LIMIT, trust_env=False))
            port = urlsplit(url).port
            assert port is not None
            proxies[name].target = port
            sites.append(Deployment(name, url, service, client, proxies[name]))
        await connected(sites)
        yield sites


async def connected(sites: Sequence[Deployment]) -> None:
    """Until each follows all others."""
    for site in sites:
        for other in sites:
            if other is not site:
                await until(lambda site=site, other=other: _follows(site, other))  # type: ignore[misc]


async def _follows(site: Deployment, other: Deployment) -> bool:
    counts = await site.stats(other.name)
    return bool(counts["connected"] and counts["synced"] > counts["sync_failures"])


async def until(condition: Callable[[], object]) -> None:
    """Until it holds; it is asked again and again."""
    async with asyncio.timeout(LIMIT):
        while True:
            held = condition()
            if await held if asyncio.iscoroutine(held) else held:
                return
            await asyncio.sleep(0.02)


async def agreed(sites: Sequence[Deployment], key: str, value: object) -> None:
    """Until every site has this value under the key."""
    for site in sites:

        async def has(site: Deployment = site) -> bool:
            return await site.get(key) == value

        await until(has)
