"""Told: a change as subscribers are told of it, made once for all of them.

A frame is its head, the same for everyone, and behind it the number and the position that are a session's own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Final

import orjson

from cachesvc.model.change import Change, Kind
from cachesvc.model.conflict import MANUAL
from cachesvc.model.entry import Entry
from cachesvc.model.invalidation import Invalidation
from cachesvc.model.keys import Key, module_of
from cachesvc.model.merging import members
from cachesvc.model.moments import moment
from cachesvc.model.numbers import add_roughly, format_number, roughly
from cachesvc.protocol.exact import RawJson, read_value
from cachesvc.protocol.values import is_json, value_members
from cachesvc.realtime.modules import CHANGED_BY, Member, Module, Modules
from cachesvc.realtime.resources import published_to

MAX_PUSHED: Final = 256 << 10  # bytes of a value that is pushed; a larger one is read by who wants it
CREATED: Final = "created"
UPDATED: Final = "updated"
DELETED: Final = "deleted"
UNKNOWN: Final = object()  # the content of what is deleted, too large, or about no entry: nothing is known of it
NEEDS: Final[Mapping[str, str]] = {MANUAL: "resolve"}
_KINDS: Final = frozenset({Kind.WRITE, Kind.FILL, Kind.DELETE, Kind.EXPIRE})


class Told:
    """One message. `entity` is what it tells of, "" for what stands for itself and is never conflated."""

    __slots__ = (
        "action",
        "at",
        "content",
        "entity",
        "epoch",
        "head",
        "needs",
        "payload",
        "resource",
        "size",
        "type",
        "version",
    )

    def __init__(
        self,
        kind: str,
        payload: Mapping[str, object],
        *,
        version: int,
        epoch: int,
        at: float,
        resource: str = "",
        entity: str = "",
        action: str = "",
        content: object = UNKNOWN,
        needs: str = "",
    ) -> None:
        self.type = kind
        self.payload = payload
        self.version = version
        self.epoch = epoch
        self.at = at
        self.resource = resource
        self.entity = entity
        self.action = action
        self.content = content  # the decoded value; None for what is no JSON, which has no fields either
        self.needs = needs  # what one must be allowed to do with the resource beside reading it
        members = {"type": kind, "payload": payload, "timestamp": moment(at), "version": version, "epoch": epoch}
        self.head = orjson.dumps(members, default=_written_out)[:-1] + b',"seq":'
        self.size = len(self.head) + 43

    def frame(self, seq: int, position: int) -> bytes:
        """The whole frame, for one session."""
        return b'%b%d,"position":%d}' % (self.head, seq, position)

    def changed(self, action: str, **members: object) -> Told:
        """The same with another action, and other members of its payload."""
        payload = {**self.payload, **members}
        if "action" in payload:
            payload["action"] = action
        return Told(
            self.type,
            payload,
            version=self.version,
            epoch=self.epoch,
            at=self.at,
            resource=self.resource,
            entity=self.entity,
            action=action,
            content=self.content,
        )


def tell(change: Change, modules: Modules, epoch: int) -> Told | None:
    """What is told of a change of a key, or of a publication; None for what nobody is told of."""
    if change.publication is not None:
        resource, message, sender, kind, about = change.publication
        payload: dict[str, object] = {"resource": resource, "message": orjson.Fragment(message), "publishedBy": sender}
        if kind:
            payload = {name: _member(text) for name, text in (members(message.decode()) or {}).items()}
        return Told(
            kind or "publish",
            payload,
            version=change.sequence,
            epoch=epoch,
            at=change.at,
            resource=modules.called(resource) if kind else published_to(change.publication, modules).reach,
            content=_looked_into(change, about, modules, epoch) if about is not None else UNKNOWN,
            needs=NEEDS.get(kind, ""),
        )
    if change.key is None or change.kind not in _KINDS:
        return None
    entry = change.entry if change.entry is not None and not change.entry.deleted else None
    if change.kind is Kind.FILL:
        unchanged = change.before == entry.content_hash if entry is not None else change.before is None
        if unchanged:
            return None
    module = modules.of(module_of(change.key))
    return SHAPES[module.shape](_Event(change, change.key, entry, module, epoch))


def barely_told(change: Change, modules: Modules, epoch: int) -> Told:
    """A change of a key, or a publication, without its content: told as if that were too large, so that it is read."""
    if change.publication is not None:
        resource, _, sender, kind, _ = change.publication
        payload: dict[str, object] = {"resource": resource, "message": None, "publishedBy": sender, "truncated": True}
        reach = modules.called(resource) if kind else published_to(change.publication, modules).reach
        needs = NEEDS.get(kind, "")
        return Told("publish", payload, version=change.sequence, epoch=epoch, at=change.at, resource=reach, needs=needs)
    key, gone = change.key or "", change.entry is None or change.entry.deleted
    operation = "delete" if gone else "set"
    payload = {"key": key, "value": None, "operation": operation, "distribute": change.distribute}
    return Told(
        "cache:update",
        payload if gone else payload | {"truncated": True},
        version=change.sequence,
        epoch=epoch,
        at=change.at,
        resource=key,
        entity=key,
        action=DELETED if gone else CREATED if change.before is None else UPDATED,
    )


def _looked_into(change: Change, about: Entry, modules: Modules, epoch: int) -> object:
    """What filters would find in a change of the entry that a message is about."""
    event = _Event(change._replace(entry=about), about.key, about, modules.of(module_of(about.key)), epoch)
    return {**event.content, **event.members()} if isinstance(event.content, dict) else event.content


def _member(text: str) -> object:
    """A member of a payload: what filters may look at is decoded, anything else keeps its own text."""
    return read_value(text.encode()) if text[0] in '"tfn' else RawJson(text.encode())


def tell_invalidation(change: Change, named: Invalidation, epoch: int) -> Told:
    """An invalidation of so much of what it names as concerns a subscriber."""
    payload: dict[str, object] = {"keys": named.keys, "cascade": named.cascade}
    if named.pattern:
        payload["pattern"] = named.pattern
    if named.soft:
        payload["soft"] = True
    return Told("cache:invalidate", payload, version=change.sequence, epoch=epoch, at=change.at)


class _Event:
    """A change on its way to be told: what its key became, as its module has it."""

    def __init__(self, change: Change, key: Key, entry: Entry | None, module: Module, epoch: int) -> None:
        self.change = change
        self.key = key
        self.entry = entry
        self.module = module
        self.epoch = epoch
        self.held = entry is not None and change.value_held and len(entry.value) <= MAX_PUSHED
        self.content = self._decoded()

    @property
    def action(self) -> str:
        if self.entry is None:
            return DELETED
        return CREATED if self.change.before is None else UPDATED

    @property
    def name(self) -> str:
        """What is left of the key behind its module."""
        return self.key.partition(":")[2]

    def common(self) -> dict[str, object]:
        """What is said of every entry."""
        said: dict[str, object] = {"key": self.key}
        if self.change.kind is Kind.EXPIRE:
            said["reason"] = "expired"
        if self.entry is not None:
            if not self.held:
                said["truncated"] = True
            if not is_json(self.entry.content_type):
                said |= {"contentType": self.entry.content_type} | ({"encoding": "base64"} if self.held else {})
        return said

    def value(self) -> object:
        """As it is told: itself, base64, or null where it is too large or gone."""
        return value_members(self.entry)["value"] if self.entry is not None and self.held else None

    def member(self, member: Member) -> object:
        """What a member of the payload is, None for nothing."""
        if member.metadata == "conflict" and self.change.conflict:
            return True if member.kind is bool else {"conflictId": self.change.conflict}
        for found in (self.content.get(member.name) if isinstance(self.content, dict) else None, self._known(member)):
            if member.takes(found):
                return found
        return member.default

    def members(self) -> dict[str, object]:
        """The members of the payload beside the entity, those that are the value's own as it has them."""
        found = {member.name: self.member(member) for member in self.module.members}
        return {name: self._exactly(name, value) for name, value in found.items() if value is not None}

    def told(self, kind: str, payload: Mapping[str, object], *, conflates: bool = True) -> Told:
        return Told(
            kind,
            payload,
            version=self.change.sequence,
            epoch=self.epoch,
            at=self.change.at,
            resource=self.key,
            entity=self.key if conflates else "",
            action=self.action,
            content=self.content,
        )

    def previous(self) -> RawJson:
        """What the log remembers of the content before; null for nothing."""
        return RawJson(self.change.previous or b"null")

    def current(self) -> RawJson:
        """The content; null for what is none, or no JSON."""
        known = self.entry is not None and self.held and is_json(self.entry.content_type)
        return RawJson(self.entry.value if known and self.entry is not None else b"null")

    def _exactly(self, name: str, value: object) -> object:
        """A member of the payload; what is taken out of the value keeps its text, however deep or large."""
        if not isinstance(value, list | dict) or not isinstance(self.content, dict) or self.content.get(name) is not value:
            return value
        assert self.entry is not None
        return RawJson((members(self.entry.value.decode()) or {}).get(name, "null").encode())

    def _known(self, member: Member) -> object:
        if self.change.entry is None:
            return None
        match member.metadata:
            case "source":
                return self.change.entry.source or None
            case "updated_by":
                return self.change.entry.author
            case _:
                return None

    def _decoded(self) -> object:
        if self.entry is None or not self.held:
            return UNKNOWN
        return read_value(self.entry.value) if is_json(self.entry.content_type) else None


def _entity(event: _Event) -> Told:
    module = event.module
    entity = event.value() if event.entry is not None else {"id": event.name}
    payload = {"action": event.action, module.entity: entity, **event.members(), **event.common()}
    return event.told(module.type, payload)


def _mail(event: _Event) -> Told:
    """New mail is news; a mail whose status is another is told by that, and as it is now; anything else as any entry."""
    module, action = event.module, event.action
    if action == CREATED:
        payload = {module.entity: event.value(), **event.members(), **event.common()}
        return event.told(module.type, payload, conflates=False)
    status = event.content.get("status") if isinstance(event.content, dict) else None
    if action == UPDATED and status in module.statuses and status != read_value(event.previous()):
        payload = {"messageId": event.name, "status": status, "changedBy": event.member(CHANGED_BY)}
        return event.told(module.status_type, {**payload, module.entity: event.value(), **event.common()})
    return _plain(event)


def _metric(event: _Event) -> Told:
    """A metric with what it was before: `dashboard:MODULE:METRIC`."""
    of, _, metric = event.name.partition(":")
    if not metric or (event.entry is not None and not event.held):
        return _plain(event)
    previous, current = event.previous(), event.current()
    change = {"previous": previous, "current": current, "delta": add_roughly(roughly(current), roughly(previous).copy_negate())}
    payload = {"module": of, "metric": metric, "value": event.value(), "change": change, **event.common()}
    return event.told(event.module.type, payload)


def _plain(event: _Event) -> Told:
    entry = event.entry
    payload: dict[str, object] = {
        "value": event.value(),
        "operation": "set" if entry is not None else "delete",
        "distribute": event.change.distribute,
        **event.common(),
    }
    if entry is not None and entry.expires_at is not None:
        payload["ttl"] = round(entry.expires_at - event.change.at, 3)
    return event.told("cache:update", payload)


SHAPES: Final[Mapping[str, Callable[[_Event], Told]]] = {
    "entity": _entity,
    "mail": _mail,
    "metric": _metric,
    "plain": _plain,
}


def _written_out(value: object) -> orjson.Fragment:
    """What is told digit by digit."""
    match value:
        case RawJson():
            return orjson.Fragment(bytes(value))
        case Decimal():
            return orjson.Fragment(format_number(value))
        case _:
            raise TypeError(type(value).__name__)
