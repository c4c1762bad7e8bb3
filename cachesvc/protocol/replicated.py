"""What sites tell each other of an entry: a `cache:update` that says besides who wrote what, and what that knew of.

The rule that must not break: what comes is checked as if an adversary had sent it, its content against its own checksum too.
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from binascii import Error as NotBase64
from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal

from pydantic import Field, StrictBool, StrictInt, StrictStr

from cachesvc.errors import InvalidInput
from cachesvc.model.entry import NO_CONTENT, NO_ORIGIN, Entry, Fields, Origin, Rival, Stamp, content_hash
from cachesvc.model.fields import MOST
from cachesvc.model.keys import parse_key
from cachesvc.model.position import MAX_SEQ, Seq, Version
from cachesvc.model.replica import portable
from cachesvc.protocol.api import MAX_NAMES, AnyJson, Time, parse
from cachesvc.protocol.drafts import names
from cachesvc.protocol.frames import Wire
from cachesvc.protocol.values import is_json, value_members

MAX_SITES: Final = 100
MAX_DEPTH: Final = 64  # of objects within each other
_Site = Annotated[StrictStr, Field(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9_.-]+$")]
_Sequence = Annotated[StrictInt, Field(ge=0, le=MAX_SEQ)]
_Names = Annotated[list[StrictStr], Field(max_length=MAX_NAMES)]


class Named(Wire):
    """A write, by its site and the sequence there."""

    site: _Site
    sequence: _Sequence


class StampTold(Named):
    """A write, and when it was made."""

    at: Time


class FieldTold(StampTold):
    path: Annotated[list[StrictStr], Field(min_length=1, max_length=MAX_DEPTH)]


class FieldsTold(Wire):
    """Which writes the fields of an object are of: one, but for those that have changed since, or are gone."""

    root: StampTold
    known: Annotated[dict[_Site, _Sequence], Field(min_length=1, max_length=MAX_SITES)]
    changed: Annotated[list[FieldTold], Field(max_length=MOST)] = Field(default_factory=list)


class Content(Wire):
    value: AnyJson = None
    operation: Literal["set", "delete"]
    content_type: Annotated[StrictStr, Field(max_length=255)] = ""
    encoding: Literal["base64"] | None = None
    hash: Annotated[StrictStr, Field(pattern=r"^[0-9a-f]{32}$")]
    created_at: Time
    updated_at: Time
    expires_at: Time | None = None
    tags: _Names = Field(default_factory=list)
    depends_on: _Names = Field(default_factory=list)
    updated_by: Annotated[StrictStr, Field(max_length=512)] = ""
    source: Annotated[StrictStr, Field(max_length=512)] = ""
    fields: FieldsTold | None = None


class RivalTold(Content):
    value: StrictStr | None = None  # type: ignore[assignment] # in base64
    origin: Named
    of: Annotated[list[Named], Field(max_length=1)] | None = Field(
        None, description="of an increment: what it was added to, an empty list where there was nothing"
    )


class Replicated(Content):
    """The payload of a `cache:update` between sites."""

    key: StrictStr
    distribute: StrictBool = True
    origin: Named
    vector: Annotated[dict[_Site, _Sequence], Field(min_length=1, max_length=MAX_SITES)]
    rivals: Annotated[list[RivalTold], Field(max_length=2 * MAX_SITES)] = Field(default_factory=list)


class InvalidationTold(Wire):
    """The payload of a `cache:invalidate` between sites: what is not told key by key."""

    keys: Annotated[list[StrictStr], Field(max_length=100_000)] = Field(default_factory=list)
    pattern: StrictStr | None = None
    tags: _Names = Field(default_factory=list)
    cascade: StrictBool = False
    soft: StrictBool = False
    at: Time | None = None
    origin: Named


class PublicationTold(Wire):
    """The payload of a `publish` between sites."""

    resource: Annotated[StrictStr, Field(min_length=1, max_length=600)]
    message: AnyJson = None
    published_by: Annotated[StrictStr, Field(max_length=512)] = ""
    origin: Named


def told(entry: Entry, site: str) -> dict[str, object]:
    """The payload that tells another site of an entry of this one."""
    entry = portable(entry, site)
    assert entry.origin is not None
    payload: dict[str, object] = {"key": entry.key, **_content_told(entry, exact=True), "distribute": True}
    payload["origin"] = entry.origin._asdict()
    payload["vector"] = dict(entry.vector)
    if entry.rivals:
        payload["rivals"] = [_rival_told(rival) for rival in entry.rivals]
    return payload


def entry_of(payload: Mapping[str, Any]) -> Entry:
    """The entry that another site tells of. Raises `InvalidInput`."""
    said = parse(Replicated, payload)
    key = parse_key(said.key, field="payload.key")
    vector = tuple(sorted(said.vector.items()))
    rivals = tuple(
        Rival(Origin(rival.origin.site, Seq(rival.origin.sequence)), _of(rival), _entry(rival, key)) for rival in said.rivals
    )
    origin = Origin(said.origin.site, Seq(said.origin.sequence))
    known = dict(vector)
    for each in (origin, *(rival.origin for rival in rivals)):
        if known.get(each.site, -1) < each.sequence:
            raise InvalidInput("payload.vector", "does not know of the entry's own write")
    return _entry(said, key)._replace(origin=origin, vector=vector, rivals=rivals)


def _content_told(entry: Entry, *, exact: bool) -> dict[str, object]:
    content: dict[str, object] = {"operation": "delete" if entry.deleted else "set"}
    if entry.deleted:
        content["value"] = None
    elif exact:
        content |= value_members(entry)
    else:
        value = b64encode(entry.value).decode()
        content |= {"contentType": entry.content_type, "encoding": "base64", "value": value}
    content |= {"hash": entry.content_hash.hex(), "createdAt": entry.created_at, "updatedAt": entry.updated_at}
    if entry.expires_at is not None:
        content["expiresAt"] = entry.expires_at
    if entry.fields is not None:
        content["fields"] = _fields_told(entry.fields)
    more = {"tags": entry.tags, "dependsOn": entry.parents, "updatedBy": entry.updated_by, "source": entry.source}
    return content | {name: value for name, value in more.items() if value}


def _fields_told(fields: Fields) -> dict[str, object]:
    def told(stamp: Stamp) -> dict[str, object]:
        return {"at": stamp.at, "site": stamp.origin.site, "sequence": stamp.origin.sequence}

    changed = [{"path": path, **told(stamp)} for path, stamp in fields.changed]
    return {"root": told(fields.root), "known": dict(fields.known), "changed": changed}


def _fields(said: Content) -> Fields | None:
    if said.fields is None:
        return None
    root = _stamp(said.fields.root)
    changed = tuple(sorted((tuple(one.path), _stamp(one)) for one in said.fields.changed))
    if max((root, *(stamp for _, stamp in changed))).at > said.updated_at:
        raise InvalidInput("payload.fields", "are of writes that are later than the last one")
    return Fields(root, tuple(sorted(said.fields.known.items())), changed)


def _stamp(said: StampTold) -> Stamp:
    return Stamp(said.at, Origin(said.site, Seq(said.sequence)))


def _rival_told(rival: Rival) -> dict[str, object]:
    """Its value in base64, since exact texts are only kept of the payload's own members."""
    payload = _content_told(rival.entry, exact=False) | {"origin": rival.origin._asdict()}
    if rival.of is not None:
        payload["of"] = [rival.of._asdict()] if rival.of != NO_ORIGIN else []
    return payload


def _of(rival: RivalTold) -> Origin | None:
    if rival.of is None:
        return None
    return Origin(rival.of[0].site, Seq(rival.of[0].sequence)) if rival.of else NO_ORIGIN


def _entry(said: Content, key: Any) -> Entry:
    deleted = said.operation == "delete"
    value = b""
    if not deleted:
        text: str | bytes | None = said.value
        if said.encoding is not None:
            value = _unpacked(text.strip()[1:-1] if isinstance(text, bytes) else text or "")
        elif isinstance(text, bytes) and is_json(said.content_type):
            value = bytes(text)
        else:
            raise InvalidInput("payload.encoding", "is missing: only JSON stands as it is")
    digest = bytes.fromhex(said.hash)
    if digest != (NO_CONTENT if deleted else content_hash(said.content_type, value)):
        raise InvalidInput("payload.hash", "is not of this content")
    return Entry(
        key,
        Version(0),
        value,
        said.content_type if not deleted else "",
        said.created_at,
        said.updated_at,
        said.expires_at,
        digest,
        deleted,
        names(said.tags, field="payload.tags"),
        names(said.depends_on, field="payload.dependsOn"),
        said.updated_by,
        said.source,
        fields=_fields(said),
    )


def _unpacked(text: str | bytes) -> bytes:
    try:
        return b64decode(text, validate=True)
    except (NotBase64, ValueError):
        raise InvalidInput("payload.value", "is not base64") from None
