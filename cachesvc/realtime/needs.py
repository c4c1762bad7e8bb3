"""Needs: what one must be allowed to do for a message to be served: actions and the resources, or globs, that they are of."""

from __future__ import annotations

from collections.abc import Iterable

from cachesvc.protocol.frames import CacheGet, CacheInvalidate, CacheUpdate, CacheWarm, Frame, Publish


def nothing(received: Frame) -> tuple[()]:
    return ()


def invalidated(received: CacheInvalidate) -> Iterable[tuple[str, str]]:
    named = received.payload
    globs = [named.pattern] if named.pattern is not None else []
    # a tag or a cascade may come to any key
    everything = ["*"] if named.tags or named.cascade else []
    return [("invalidate", name) for name in (*named.keys, *globs, *everything)]


def read(received: CacheGet) -> Iterable[tuple[str, str]]:
    return (("read", received.payload.key),)


def written(received: CacheUpdate) -> Iterable[tuple[str, str]]:
    return (("write", received.payload.key),)


def warmed(received: CacheWarm) -> Iterable[tuple[str, str]]:
    named = received.payload
    globs = [named.pattern] if named.pattern is not None else []
    modules = [f"{named.module}:*"] if named.module is not None else []
    return [("warm", name) for name in (*named.keys, *globs, *modules)] or [("warm", "*")]


def published(received: Publish) -> Iterable[tuple[str, str]]:
    return (("publish", received.payload.resource),)
