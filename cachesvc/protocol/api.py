"""The bodies of the HTTP contract: what is sent is validated by these models, and all of them are documented by them.

Names are camelCase on the wire. An unknown member is refused: a misspelt `tll` must not write an entry that never ends.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Final, Literal, TypeVar

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    InstanceOf,
    JsonValue,
    RootModel,
    StrictBool,
    StrictStr,
    ValidationError,
)
from pydantic.alias_generators import to_camel
from pydantic.json_schema import WithJsonSchema

from cachesvc.errors import InvalidInput
from cachesvc.model.keys import MAX_KEY_BYTES
from cachesvc.model.position import MAX_SEQ
from cachesvc.protocol.exact import RawJson

MAX_TTL: Final = 315_360_000.0  # ten years
MAX_NAMES: Final = 128  # tags, and parents, of one entry
_TTL_RULE: Final = f"must be a number of seconds over 0, up to {MAX_TTL:.0f} (ten years)"


def check_ttl(value: object) -> float:
    """A time to live in seconds; raises `InvalidInput` naming the range."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InvalidInput("ttl", _TTL_RULE)
    if not (math.isfinite(value) and 0 < value <= MAX_TTL):
        raise InvalidInput("ttl", _TTL_RULE)
    return float(value)


def _ttl(value: object) -> float | None:
    try:
        return None if value is None else check_ttl(value)
    except InvalidInput as wrong:
        raise ValueError(wrong.reason) from wrong


Ttl = Annotated[
    float | None,
    BeforeValidator(_ttl),
    WithJsonSchema({"type": ["number", "null"], "exclusiveMinimum": 0, "maximum": MAX_TTL, "description": "seconds"}),
]
Time = Annotated[float, Field(ge=0, le=1e11, allow_inf_nan=False, description="Unix seconds")]
AnyJson = Annotated[InstanceOf[RawJson] | None, WithJsonSchema({"description": "any JSON value, kept as written"})]
# how long it is, is checked in bytes by `parse_name`, as no schema can say
Name = Annotated[StrictStr, WithJsonSchema({"type": "string", "minLength": 1, "maxLength": MAX_KEY_BYTES})]
Names = Annotated[list[Name], Field(max_length=MAX_NAMES)]
VersionNumber = Annotated[int, Field(strict=True, ge=0, le=MAX_SEQ)]


def _operation(name: str) -> JsonValue:
    return {"properties": {"operation": {"const": name}}}


class Body(BaseModel):
    """A JSON object of the contract."""

    model_config = ConfigDict(extra="forbid", frozen=True, alias_generator=to_camel)


class Update(Body):
    """What `POST /v1/cache/{key}` takes: the `cache:update` payload without its key."""

    model_config = ConfigDict(
        json_schema_extra={
            "allOf": [
                {"if": _operation("set"), "then": {"required": ["value"]}},
                {"if": _operation("increment"), "then": {"properties": {"value": {"type": "number"}}}},
            ]
        }
    )

    operation: Literal["set", "delete", "increment"]
    value: AnyJson = None
    ttl: Ttl = None
    distribute: StrictBool = True
    tags: Names = Field(default_factory=list)
    depends_on: Names = Field(default_factory=list)
    expected_version: Annotated[VersionNumber | None, Field(description="refuses; 0: absent")] = None
    base_version: Annotated[VersionNumber | None, Field(description="accepts, and tells a conflict; 0: absent")] = None
    fill_token: Annotated[
        StrictStr | None, Field(max_length=40, description="of the miss: refuses if what the value depends on changed since")
    ] = None


class Get(Body):
    """A read within a batch."""

    operation: Literal["get"]
    key: Name


class KeyedUpdate(Update):
    """A write within a batch."""

    key: Name


class Batch(Body):
    """What `POST /v1/batch` takes."""

    operations: list[Get | KeyedUpdate]


class Invalidate(Body):
    """What `POST /v1/invalidate` takes: at least one of keys, pattern and tags."""

    model_config = ConfigDict(json_schema_extra={"anyOf": [{"required": [name]} for name in ("keys", "pattern", "tags")]})

    keys: list[Name] = Field(default_factory=list)
    pattern: Name | None = None
    tags: Names = Field(default_factory=list)
    cascade: StrictBool = Field(False, description="also what depends on them, transitively")
    dry_run: StrictBool = Field(False, description="only tell what would be hit")
    soft: StrictBool = Field(False, description="keep them as stale: past their life from now on, and loaded at the next use")
    distribute: StrictBool = True


class Sync(Body):
    """What `POST /v1/sync` may take: what to audit. Without it all of every tier above the authority."""

    tiers: Annotated[list[Literal["memory", "redis"]], Field(max_length=2)] | None = None
    sample: Annotated[int | None, Field(strict=True, ge=1, le=1_000_000_000, description="entries of each tier; null: all")] = (
        None
    )
    sites: Annotated[
        list[StrictStr] | None,
        Field(max_length=100, description="compare with these other sites, an empty list for all, instead of tiers"),
    ] = None


class Previewed(BaseModel):
    """What would be hit, with `dryRun`."""

    model_config = ConfigDict(alias_generator=to_camel)

    dry_run: Literal[True]
    matched: int
    cascaded: int
    bytes: int
    modules: dict[str, dict[str, int]] = Field(description="by module: entries and bytes")
    sample: list[str]
    cascade: dict[str, list[str]] = Field(description="dependents, up to a thousand, and what each depends on")
    loads: dict[str, int] = Field(description="by module with a loader: how often it is called if all are read once again")


class Invalidated(BaseModel):
    """What an invalidation did."""

    sequence: int
    operation: Literal["invalidate"]
    matched: int | None = Field(description="live entries that were named; null while a pattern's are still being counted")
    cascaded: int = Field(description="live entries that depended on them")
    job: str | None = Field(description="that sweeps what a pattern ended; null where none was given")
    applied: bool | None = Field(
        None, description="with wait=all: whether every live node has applied it; null: nobody could be asked"
    )
    missing: list[str] | None = Field(None, description="with wait=all: the nodes that have not")
    silent: list[str] | None = Field(
        None, description="with wait=all: nodes not heard of lately, which may still serve what they hold"
    )


class InvalidateAnswer(RootModel[Invalidated | Previewed]):
    """What an invalidation did, or would do."""


class Problem(BaseModel):
    """An error (RFC 9457)."""

    model_config = ConfigDict(alias_generator=to_camel)

    type: str
    title: str
    status: int
    detail: str
    code: str
    recoverable: bool
    retry_after: float | None = Field(None, description="seconds")
    request_id: str | None = None
    field: str | None = Field(None, description="what is wrong, for bad input")
    current_version: int | None = Field(None, description="the version that the entry has, after 412")
    version: int | None = Field(None, description="of a deletion that found nothing, and is recorded")
    fill_token: str | None = Field(None, description="of a miss in a batch: the Fill-Token to write with")
    limit: int | None = Field(None, description="the most that are allowed, where there were too many")


class Done(BaseModel):
    """What a write did."""

    model_config = ConfigDict(alias_generator=to_camel)

    key: str
    version: int
    operation: str
    value: AnyJson = None
    conflict_id: str | None = None


class BatchResult(BaseModel):
    """What became of one operation of a batch."""

    model_config = ConfigDict(alias_generator=to_camel)

    status: int = Field(description="as the single request would have been answered")
    operation: str | None = None
    key: str | None = None
    version: int | None = None
    value: AnyJson = None
    encoding: Literal["base64"] | None = None
    content_type: str | None = None
    conflict_id: str | None = None
    problem: Problem | None = None


class BatchResults(BaseModel):
    """The answer to a batch: one result each, in order."""

    results: list[BatchResult]


class ListedKey(BaseModel):
    """A key as it is listed."""

    key: str
    version: int
    ttl: float | None = Field(description="seconds left; null: does not end")
    size: int = Field(description="bytes of the value")
    tags: list[str]


class KeyPage(BaseModel):
    """A page of keys, in byte order."""

    keys: list[ListedKey]
    cursor: str | None = Field(description="for the next page; null on the last")


class FoundEntry(ListedKey):
    """An entry as a query finds it."""

    model_config = ConfigDict(alias_generator=to_camel)

    content_type: str
    value: AnyJson = None
    encoding: Literal["base64"] | None = None


class EntryPage(BaseModel):
    """A page of entries, in byte order of their keys."""

    entries: list[FoundEntry]
    cursor: str | None = Field(description="for the next page; null on the last")


Model = TypeVar("Model", bound=BaseModel)

# In the words of JSON, where the validator's are those of Python.
_REASONS: Final = {
    "missing": "is missing",
    "extra_forbidden": "is not known here",
    "dict_type": "must be an object",
    "model_type": "must be an object",
    "model_attributes_type": "must be an object",
    "list_type": "must be an array",
}


def parse(model: type[Model], members: Mapping[str, object], *, path: str = "") -> Model:
    """The members as a model; raises `InvalidInput` naming the first that is wrong, below `path`."""
    try:
        return model.model_validate(members)
    except ValidationError as wrong:
        error = wrong.errors(include_url=False, include_input=False)[0]
        place = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in error["loc"])
        reason = _REASONS.get(error["type"])
        if error["type"] == "too_long":
            reason = "has {actual_length} items; allowed are up to {max_length}".format_map(error["ctx"])
        reason = reason or error["msg"].removeprefix("Value error, ").replace("Input should be", "must be")
        raise InvalidInput(f"{path}{place}".removeprefix("."), reason[0].lower() + reason[1:]) from None
