"""Needs: what one must be allowed to do for a message to be served.

The rule that must not break: a key is asked for as the text that it is. Read as a glob it may be another key's, or a scope's.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from cachesvc.errors import Forbidden
from cachesvc.model.warming import Warming
from cachesvc.protocol.frames import CacheGet, CacheInvalidate, CacheSync, CacheUpdate, Frame
from cachesvc.realtime.identity import Identity
from cachesvc.realtime.resources import Resource


class Need(NamedTuple):
    """An action, and the key or resource that it is of, or the glob of all of them."""

    action: str
    resource: str
    glob: bool = False

    def met(self, identity: Identity) -> bool:
        may = identity.may_all if self.glob else identity.may
        return may(self.action, self.resource)


def require(identity: Identity, wanted: Iterable[Need]) -> None:
    """Raises `Forbidden` unless all of it is allowed."""
    for need in wanted:
        if not need.met(identity):
            raise Forbidden(need.action, need.resource)


def nothing(received: Frame) -> tuple[()]:
    return ()


def invalidated(received: CacheInvalidate) -> Iterable[Need]:
    named = received.payload
    yield from (Need("invalidate", key) for key in named.keys)
    if named.pattern is not None:
        yield Need("invalidate", named.pattern, glob=True)
    if named.tags or named.cascade:  # which may reach anything
        yield Need("invalidate", "*", glob=True)


def read(received: CacheGet) -> Iterable[Need]:
    yield Need("read", received.payload.key)


def written(received: CacheUpdate) -> Iterable[Need]:
    yield Need("write", received.payload.key)


def synced(received: CacheSync) -> Iterable[Need]:
    yield Need("node", "cache:sync")


def warmed(warming: Warming) -> Iterable[Need]:
    """Of a warm-up, which its loaders and limits have made out: each of its keys, or all that a peer may have."""
    yield from (Need("warm", key) for key in warming.keys)
    if not warming.keys:
        yield Need("warm", warming.pattern or "*", glob=True)


def of(action: str, resource: Resource) -> Need:
    """Doing that to a single one by its name, or to all that a resource covers."""
    return Need(action, resource.reach, glob=not resource.single)
