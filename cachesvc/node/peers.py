"""Peers: the other nodes of the site, asked over HTTP."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Protocol

import httpx
import orjson

from cachesvc.errors import InvalidInput, JobFailed
from cachesvc.model.keys import Key, parse_key
from cachesvc.node.bodies import body_of
from cachesvc.ports import NodeRecord

_WITHIN: Final = 10.0
_MOST_BYTES: Final = 16 << 20


class Registered(Protocol):
    async def nodes(self, *, seen_within: float) -> Sequence[NodeRecord]: ...


class Peers:
    """Whoever else was heard of in the last `seen_within` seconds. Of workers that share an address, whichever answers."""

    def __init__(self, registry: Registered, node: str, *, seen_within: float, token: str = "") -> None:
        self._registry = registry
        self._node = node
        self._seen_within = seen_within
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}

    async def hot(self, node: str, limit: int) -> Sequence[Key]:
        """The keys that a node's memory holds, the hottest first. Where none is named: of the one that is there the longest
        and has any, so that one that does not answer, or has nothing either, is passed by.

        Raises `JobFailed` where there is none or none answers as it should, `TierUnavailable` where nobody can say.
        """
        found = [record for record in await self._registry.nodes(seen_within=self._seen_within) if record.node != self._node]
        if node:
            found = [record for record in found if record.node == node]
        if not found:
            raise JobFailed(f"the node {node} is not there" if node else "there is no other node to ask")
        failures: list[JobFailed] = []
        for record in sorted(found, key=lambda record: record.started_at):
            try:
                keys = await self._ask(record, limit)
            except JobFailed as failed:
                failures.append(failed)
                continue
            if keys:
                return keys
        if len(failures) == len(found):
            raise failures[0]
        return []

    async def _ask(self, peer: NodeRecord, limit: int) -> Sequence[Key]:
        url = f"http://{_host(peer.address)}/v1/hot"
        try:
            async with (
                httpx.AsyncClient(timeout=_WITHIN, trust_env=False) as client,
                client.stream("GET", url, params={"limit": limit}, headers=self._headers) as answer,
            ):
                answer.raise_for_status()
                return [parse_key(held["key"]) for held in orjson.loads(await body_of(answer, _MOST_BYTES))["keys"]][:limit]
        except (httpx.HTTPError, httpx.InvalidURL) as exc:
            raise JobFailed(f"the node {peer.node} does not answer: {type(exc).__name__}") from exc
        except (ValueError, TypeError, KeyError, InvalidInput) as exc:
            raise JobFailed(f"the node {peer.node} does not answer with keys") from exc


def _host(address: str) -> str:
    """`host:port` of a node's address, whose worker's number is of no use to a client."""
    place, _, _ = address.partition("#")
    host, _, port = place.rpartition(":")
    return f"[{host}]:{port}" if ":" in host else place
