"""Hub: which sessions of this node a change concerns, found by an index over segments, keys and globs.

The rules that must not break: there is no await in here, so a subscription sees every change after the one at which it was
made; and whatever is wrong with one change, the others are told, and whom it concerned comes to know.
"""

from __future__ import annotations

import logging
from bisect import bisect_left, insort
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from typing import Final

from cachesvc.model.change import Change, Kind
from cachesvc.model.invalidation import Invalidation
from cachesvc.model.keys import Key
from cachesvc.model.pattern import Pattern, parse_pattern
from cachesvc.model.position import Position
from cachesvc.realtime.alarm import Alarm
from cachesvc.realtime.framing import Framing
from cachesvc.realtime.modules import Modules
from cachesvc.realtime.resources import Resource, parse_resource, published_to
from cachesvc.realtime.stream import Stream, Subscription
from cachesvc.realtime.told import Told, barely_told, tell, tell_invalidation

Subscriptions = dict[Subscription, None]  # a set, in order
_EVERY: Final = parse_pattern("*")
_log = logging.getLogger(__name__)


class Audience:
    """Subscriptions, and who of them is told what of a change."""

    def __init__(self, modules: Modules, alarm: Alarm) -> None:
        self.modules = modules
        self.alarm = alarm
        self.index = Index()

    def of(self, change: Change, epoch: int) -> dict[Stream, tuple[Told, Subscription]]:
        """Who is told of a change, what, and by the most eager of which subscriptions."""
        if change.kind is Kind.INVALIDATE and change.invalidation is not None:
            return self._invalidated(change, change.invalidation, epoch)
        if change.publication is not None:
            covering = self.index.following(published_to(change.publication, self.modules))
        elif change.key is not None:
            covering = self.index.covering(change.key)
        else:
            return {}
        first = next(covering, None)
        if first is None:
            return {}
        told = self._told(change, epoch)
        if told is None:
            return {}
        found: dict[Stream, tuple[Told, Subscription]] = {}
        for subscription in chain((first,), covering):
            if subscription.filters and not subscription.wants(told):
                continue
            stream = subscription.stream
            if not (stream.identity.unrestricted or stream.may_be_told(told)):
                continue
            known = found.get(stream)
            if known is None or subscription.throttle < known[1].throttle:
                found[stream] = told, subscription
        return found

    def follows(self, told: Told) -> bool:
        """Whether any subscription is of what a message is about, whatever it filters."""
        payload = told.payload
        match told.type:
            case "cache:invalidate":
                keys, pattern = payload["keys"], payload.get("pattern")
                assert isinstance(keys, Sequence)
                matched = self.index.reached(parse_pattern(pattern)) if isinstance(pattern, str) else iter(())
                return any(map(self.concerns, keys)) or next(matched, None) is not None
            case "publish":
                to = parse_resource(str(payload["resource"]), self.modules, field="resource")
                return next(self.index.following(to), None) is not None
            case _:
                return self.concerns(Key(told.resource))

    def _told(self, change: Change, epoch: int) -> Told | None:
        try:
            return tell(change, self.modules, epoch)
        except Exception:  # noqa: BLE001 - one change must not keep the others from being told
            self.alarm("the content of change %d of %s cannot be told", change.sequence, change.key, exc_info=True)
            return barely_told(change, self.modules, epoch)

    def concerns(self, key: Key) -> bool:
        """Whether anyone would be told of a change of this key."""
        return next(self.index.covering(key), None) is not None

    def _invalidated(self, change: Change, named: Invalidation, epoch: int) -> dict[Stream, tuple[Told, Subscription]]:
        """Everyone is told of those keys that concern him, and of the pattern if it may match one."""
        keys: dict[Stream, list[Key]] = {}
        eager: dict[Stream, Subscription] = {}
        for key in named.keys:
            streams: dict[Stream, None] = {}
            for subscription in self.index.covering(key):
                streams[subscription.stream] = None
                eager.setdefault(subscription.stream, subscription)
            for stream in streams:
                if stream.may_read(key):
                    keys.setdefault(stream, []).append(key)
        matched: set[Stream] = set()
        if named.pattern:
            for subscription in self.index.reached(parse_pattern(named.pattern)):
                matched.add(subscription.stream)
                eager.setdefault(subscription.stream, subscription)
        made: dict[tuple[tuple[Key, ...], bool], Told] = {}
        found: dict[Stream, tuple[Told, Subscription]] = {}
        for stream, subscription in eager.items():
            if stream not in keys and stream not in matched:
                continue
            part = tuple(keys.get(stream, ())), stream in matched
            if part not in made:
                said = Invalidation(named.pattern if part[1] else "", part[0], cascade=named.cascade, soft=named.soft)
                made[part] = tell_invalidation(change, said, epoch)
            found[stream] = made[part], subscription
        return found


class Hub:
    """The subscriptions of a node. `position` is that of the change that is told now, or was told last."""

    def __init__(self, at: Position, modules: Modules | None = None) -> None:
        self.position = at
        self.modules = modules or Modules()
        self.told = 0
        self.deliveries = 0
        self.framing = Framing()
        self.alarm = Alarm(_log, logging.ERROR)  # of what cannot be told
        self.audience = Audience(self.modules, self.alarm)

    @property
    def index(self) -> Index:
        return self.audience.index

    def sequence(self) -> int:
        return self.position.sequence

    def add(self, subscription: Subscription) -> None:
        self.index.add(subscription)

    def remove(self, subscription: Subscription) -> None:
        self.index.remove(subscription)

    def route(self, changes: Iterable[Change]) -> None:
        """Tell everyone whom these changes concern, in order."""
        for change in changes:
            self.position = Position(self.position.epoch, change.sequence)
            try:
                audience = self.audience.of(change, self.position.epoch)
            except Exception:  # noqa: BLE001 - nor may it end what tells all others
                self.alarm("whom change %d concerns cannot be told", change.sequence, exc_info=True)
                for concerned in list(self.index.reached(_EVERY)):
                    concerned.stream.lose(change.sequence)
                continue
            self.told += bool(audience)
            self.deliveries += len(audience)
            for stream, (told, subscription) in audience.items():
                try:
                    stream.offer(told, subscription)
                except Exception:  # noqa: BLE001 - nor the other sessions
                    self.alarm("change %d cannot be told to a session", change.sequence, exc_info=True)
                    stream.lose(change.sequence)

    def start_over(self, at: Position) -> None:
        """The log goes on from elsewhere. What was subscribed to is to be subscribed to again."""
        self.position = at
        self.audience = Audience(self.modules, self.alarm)


class Index:
    """Subscriptions by the resources that they are of."""

    def __init__(self) -> None:
        self._named: dict[str, Subscriptions] = {}  # by what they cover by segments
        self._exact: dict[str, Subscriptions] = {}  # by the only key that their glob matches
        self._globs: dict[str, dict[str, tuple[Pattern, Subscriptions]]] = {}  # by prefix, by text
        self._lengths: Sequence[int] = ()  # of those prefixes
        self._by_length: dict[int, int] = {}  # how many of them
        self._prefixes: list[str] = []  # of all resources, sorted
        self.size = 0

    def add(self, subscription: Subscription) -> None:
        place = self._place(subscription)
        if not place:
            insort(self._prefixes, subscription.resource.prefix)
        place[subscription] = None
        self.size += 1

    def remove(self, subscription: Subscription) -> None:
        """It may be gone already."""
        place = self._place(subscription)
        if place.pop(subscription, self) is not self:
            self.size -= 1
            if not place:
                prefix = subscription.resource.prefix
                del self._prefixes[bisect_left(self._prefixes, prefix)]
        if not place:
            self._forget(subscription)

    def covering(self, key: str) -> Iterator[Subscription]:
        """The subscriptions that cover a key."""
        end = -1
        while self._named and (end := key.find(":", end + 1)) >= 0:
            yield from self._named.get(key[:end], ())
        yield from self._named.get(key, ())
        yield from self._exact.get(key, ())
        for length in self._lengths:
            for pattern, subscriptions in self._globs.get(key[:length], {}).values():
                if pattern.matches(key):
                    yield from subscriptions

    def following(self, resource: Resource) -> Iterator[Subscription]:
        """The subscriptions that cover a resource, or are of the very same."""
        pattern = resource.pattern
        if pattern is None:
            yield from self.covering(resource.name)
        elif pattern.exact:
            yield from self.covering(pattern.prefix)
        else:
            yield from self._globs.get(pattern.prefix, {}).get(pattern.text, (pattern, {}))[1]
            yield from (one for one in self.covering(pattern.text) if one.resource.covers(pattern))

    def reached(self, pattern: Pattern) -> Iterator[Subscription]:
        """The subscriptions that may cover a key that a pattern matches: one prefix begins with the other."""
        prefix = pattern.prefix
        for length in range(len(prefix)):
            yield from self._at(prefix[:length])
        before: str | None = None
        for place in range(bisect_left(self._prefixes, prefix), len(self._prefixes)):
            text = self._prefixes[place]
            if not text.startswith(prefix):
                return
            if text != before:
                before = text
                yield from self._at(text)

    def _at(self, prefix: str) -> Iterator[Subscription]:
        yield from self._named.get(prefix, ())
        yield from self._exact.get(prefix, ())
        for _, subscriptions in self._globs.get(prefix, {}).values():
            yield from subscriptions

    def _place(self, subscription: Subscription) -> Subscriptions:
        resource = subscription.resource
        pattern = resource.pattern
        if pattern is None:
            return self._named.setdefault(resource.name, {})
        if pattern.exact:
            return self._exact.setdefault(pattern.prefix, {})
        globs = self._globs.get(pattern.prefix)
        if globs is None:
            globs = self._globs[pattern.prefix] = {}
            self._count(len(pattern.prefix), 1)
        return globs.setdefault(pattern.text, (pattern, {}))[1]

    def _forget(self, subscription: Subscription) -> None:
        """Nobody subscribes to this resource any more."""
        resource = subscription.resource
        pattern = resource.pattern
        if pattern is None:
            del self._named[resource.name]
        elif pattern.exact:
            del self._exact[pattern.prefix]
        else:
            globs = self._globs[pattern.prefix]
            del globs[pattern.text]
            if not globs:
                del self._globs[pattern.prefix]
                self._count(len(pattern.prefix), -1)

    def _count(self, length: int, more: int) -> None:
        """Prefixes of that length have come or gone. Whoever subscribes must not have to look at all others."""
        count = self._by_length.get(length, 0) + more
        if count:
            self._by_length[length] = count
        else:
            del self._by_length[length]
        if len(self._lengths) != len(self._by_length):
            self._lengths = sorted(self._by_length)
