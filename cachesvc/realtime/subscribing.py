"""Subscribing: what a session follows from now on, and what no more.

The rule that must not break: all of a request holds or none of it, and there is no await in here, so that no change comes
between.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from cachesvc.errors import Forbidden, LimitExceeded
from cachesvc.protocol.frames import SubscribePayload
from cachesvc.realtime import needs
from cachesvc.realtime.hub import Audience, Hub
from cachesvc.realtime.identity import Identity
from cachesvc.realtime.reading import filters_of
from cachesvc.realtime.resources import Resource, parse_resource
from cachesvc.realtime.stream import Stream, Subscription

MAX_GLOBS: Final = 8_192  # characters of all globs of a connection that are more than a prefix


def subscribe(stream: Stream, hub: Hub, identity: Identity, asked: SubscribePayload, *, most: int) -> list[str]:
    """Follow resources, by their names. Raises `InvalidInput`, `Forbidden` and `LimitExceeded`."""
    filters = filters_of(asked.filters)
    resources = _resources(hub, asked.resources, most)
    for resource in resources:
        if not needs.of("read", resource).met(identity):
            raise Forbidden("read", resource.text)
    if len(stream.subscriptions.keys() | {resource.text for resource in resources}) > most:
        raise LimitExceeded("payload.resources", "makes too many subscriptions of one connection", most)
    followed = {resource.text: resource for resource in (*(one.resource for one in stream.subscriptions.values()), *resources)}
    _check_globs(sum(map(_cost, followed.values())))
    stream.compression = asked.compression or stream.compression
    for resource in resources:
        known = stream.subscriptions.get(resource.text)
        since = hub.sequence() if known is None else known.since
        if known is not None:
            hub.remove(known)
        made = Subscription(stream, resource, filters, asked.throttle / 1000, since)
        stream.subscriptions[resource.text] = made
        hub.add(made)
    stream.saw(hub.sequence())  # who subscribes reads what there is
    return [resource.text for resource in resources]


def unsubscribe(stream: Stream, hub: Hub, texts: Sequence[str], *, most: int) -> list[str]:
    """Follow resources no more, by their names, followed or not. Raises `InvalidInput` and `LimitExceeded`."""
    resources = _resources(hub, texts, most)
    for resource in resources:
        known = stream.subscriptions.pop(resource.text, None)
        if known is not None:
            hub.remove(known)
    if stream.waiting:  # most often nothing does, and to index what is left takes a while
        left = Audience(hub.modules, hub.alarm)
        for subscription in stream.subscriptions.values():
            left.index.add(subscription)
        stream.keep(left.follows)
    return [resource.text for resource in resources]


def _resources(hub: Hub, texts: Sequence[str], most: int) -> list[Resource]:
    if len(texts) > most:  # before any is looked at, as others wait meanwhile
        raise LimitExceeded("payload.resources", f"has {len(texts)} items", most)
    read: list[Resource] = []
    costly = 0
    for place, text in enumerate(texts):
        read.append(parse_resource(text, hub.modules, field=f"payload.resources[{place}]"))
        costly = _check_globs(costly + _cost(read[-1]))
    return read


def _cost(resource: Resource) -> int:
    """A glob that is more than a prefix costs something to make, and with each change that it may match."""
    return 0 if resource.pattern is None or resource.pattern.plain else len(resource.pattern.text)


def _check_globs(costly: int) -> int:
    if costly > MAX_GLOBS:
        raise LimitExceeded("payload.resources", "have globs that are too long together", MAX_GLOBS)
    return costly
