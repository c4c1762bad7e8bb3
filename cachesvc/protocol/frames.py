"""Frames that clients send: one model for each type, which validates it and documents it.

What a client written from the specification alone leaves out is never required; what is not known is ignored, so that newer
clients can talk to older nodes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictInt, StrictStr
from pydantic.alias_generators import to_camel
from pydantic.json_schema import WithJsonSchema

from cachesvc.model.position import MAX_SEQ
from cachesvc.protocol.api import AnyJson, Invalidate, Name, Update
from cachesvc.protocol.exact import Parts, parts
from cachesvc.protocol.operations import Warm

MAX_ID: Final = 200  # characters of an id that a client chooses
MAX_THROTTLE: Final = 3_600_000  # milliseconds
MAX_FILTERS: Final = 32
MAX_FILTERED: Final = 100  # values of one filter
MAX_FILTER_SIZE: Final = 8_192  # characters of all filters of a subscription
MAX_PREFIXES: Final = 256  # that two sites compare in one message
MAX_CHECKSUMS: Final = MAX_PREFIXES * 32  # that one is answered with: of leaves that are full

Id = Annotated[StrictStr, Field(min_length=1, max_length=MAX_ID)]
Resource = Annotated[StrictStr, Field(min_length=1, max_length=600, description="module, module:id or cache:<glob>")]
Number = Annotated[StrictInt, Field(ge=0, le=MAX_SEQ)]
Compression = Literal["gzip", "brotli"]
_FILTERED: Final[dict[str, Any]] = {"type": ["string", "number", "boolean", "null"]}
Filter = Annotated[  # read by `filters_of`
    Any, WithJsonSchema({"anyOf": [_FILTERED, {"type": "array", "items": _FILTERED, "maxItems": MAX_FILTERED}]})
]


class Wire(BaseModel):
    """A JSON object of the protocol."""

    model_config = ConfigDict(extra="ignore", frozen=True, alias_generator=to_camel, populate_by_name=True)


class Frame(Wire):
    """The envelope."""

    timestamp: StrictStr | None = Field(None, description="ISO 8601")
    request_id: Id | None = Field(None, description="comes back as correlationId of the answer")


class Auth(Frame):
    """Who the client is. Its members stand at the top level, as the specification has it."""

    type: Literal["auth"]
    token: StrictStr = Field("", max_length=16_384)
    user_id: StrictStr = Field("", max_length=512)
    signature: StrictStr | None = Field(
        None,
        max_length=200,
        description="of an auth:challenge: HMAC-SHA256(secret, nonce ‖ connectionId ‖ userId ‖ timestamp), hexadecimal",
    )


class PingPayload(Wire):
    timestamp: StrictStr | None = Field(
        None, description="when it was sent, ISO 8601", json_schema_extra={"format": "date-time"}
    )
    sequence_number: Number = 0


class Ping(Frame):
    """Asks how long a message takes."""

    type: Literal["ping"]
    payload: PingPayload = PingPayload()


class SubscribePayload(Wire):
    resources: Annotated[list[Resource], Field(min_length=1)]
    filters: Annotated[dict[str, Filter], Field(max_length=MAX_FILTERS)] = Field(
        default_factory=dict, description="by field of the payload: the value, or an array of values, that it must have"
    )
    throttle: Annotated[float, Field(strict=True, ge=0, le=MAX_THROTTLE, allow_inf_nan=False)] = Field(
        0, description="milliseconds"
    )
    compression: Compression | None = None


class Subscribe(Frame):
    """Changes of these resources from now on. Subscribing again to a resource replaces its filters and throttle."""

    type: Literal["subscribe"]
    payload: SubscribePayload


class UnsubscribePayload(Wire):
    resources: Annotated[list[Resource], Field(min_length=1)]


class Unsubscribe(Frame):
    """Nothing of these resources any more."""

    type: Literal["unsubscribe"]
    payload: UnsubscribePayload


class Range(Wire):
    start: Number
    end: Number


class RecoveryRequestPayload(Wire):
    last_sequence_number: Number = Field(description="the last `seq` up to which nothing is missing")
    missing_ranges: Annotated[list[Range], Field(max_length=1_000)] = Field(
        default_factory=list, description="numbers that are missing beside, for as long as the node that gave them knows them"
    )
    session_id: Id | None = Field(None, description="whose the numbers are: of the connection that was lost")
    epoch: Number | None = None
    position: Number | None = Field(None, description="of the last message up to which nothing is missing")


class RecoveryRequest(Frame):
    """What was missed."""

    type: Literal["recovery:request"]
    payload: RecoveryRequestPayload


class AuthzCheckPayload(Wire):
    resource: Resource
    action: Annotated[StrictStr, Field(min_length=1, max_length=64)]
    context: dict[str, Any] = Field(default_factory=dict)


class AuthzCheck(Frame):
    """Whether the client may do something, without doing it."""

    type: Literal["authz:check"]
    payload: AuthzCheckPayload


class CacheGetPayload(Wire):
    key: Name


class CacheGet(Frame):
    """Reads an entry."""

    type: Literal["cache:get"]
    payload: CacheGetPayload


class CacheUpdatePayload(Update):
    model_config = ConfigDict(extra="ignore")

    key: Name
    idempotency_key: Id | None = Field(None, description="a retry with the same key gets the first answer")


class CacheUpdate(Frame):
    """Writes an entry; the same as POST /v1/cache/{key}."""

    type: Literal["cache:update"]
    payload: CacheUpdatePayload


class CacheInvalidatePayload(Invalidate):
    model_config = ConfigDict(extra="ignore")

    idempotency_key: Id | None = None


class CacheInvalidate(Frame):
    """Invalidates; the same as POST /v1/invalidate."""

    type: Literal["cache:invalidate"]
    payload: CacheInvalidatePayload


class CacheWarmPayload(Warm):
    model_config = ConfigDict(extra="ignore")


class CacheWarm(Frame):
    """Begins a warm-up; the same as POST /v1/warm. It is told how it goes on until it has ended."""

    type: Literal["cache:warm"]
    payload: CacheWarmPayload


class PublishPayload(Wire):
    resource: Resource
    message: AnyJson
    distribute: StrictBool = True
    idempotency_key: Id | None = None


class Publish(Frame):
    """Sends a message that is no entry to the subscribers of a resource."""

    type: Literal["publish"]
    payload: PublishPayload


class BatchPayload(Wire):
    batch_id: Id
    sync_id: Id | None = Field(None, description="the subscribers of task are told how far the batch has come: task:sync")
    updates: list[dict[str, Any]] = Field(default_factory=list)
    compression: Compression | None = None
    total_size: Number = Field(0, description="bytes of the array before compression")
    data: StrictStr | None = Field(None, description="the compressed array in base64")


class BatchUpdate(Frame):
    """Several messages at once, each answered as if it had come alone."""

    type: Literal["batch:update"]
    payload: BatchPayload


class ConflictResolvePayload(Wire):
    model_config = ConfigDict(json_schema_extra={"anyOf": [{"required": ["option"]}, {"required": ["data"]}]})

    conflict_id: Id
    option: Number | None = Field(None, description="which of the options is taken, counted from 0")
    data: AnyJson = Field(None, description="instead of an option: the value that is to stand")
    idempotency_key: Id | None = None


class ConflictResolve(Frame):
    """Settles a conflict by hand."""

    type: Literal["conflict:resolve"]
    payload: ConflictResolvePayload


class CacheSyncPayload(Wire):
    node_id: Id = Field(description="of the site that asks, or answers")
    checksums: Annotated[dict[str, StrictStr], Field(max_length=MAX_CHECKSUMS)] = Field(
        default_factory=dict, description="by prefix of the hash of a key, in hexadecimal: `sum:count` of what is held below it"
    )
    request_sync: Annotated[list[StrictStr], Field(max_length=MAX_PREFIXES)] = Field(
        default_factory=list, description="prefixes whose entries are wanted, as far as the checksums given for them differ"
    )
    position: Annotated[StrictStr, Field(max_length=40)] | None = Field(
        None, description="`epoch:sequence`, after which the log is to be told; the empty text asks where it stands"
    )
    seen: Annotated[StrictStr, Field(max_length=40)] | None = Field(
        None,
        description="`epoch:sequence`, up to which who asks has seen the log, be it more than there is now",
    )
    follows: Annotated[list[Id], Field(max_length=100)] = Field(
        default_factory=list, description="sites that are asked directly, so that their writes need not be told"
    )
    compression: Compression | None = None


class CacheSync(Frame):
    """Between nodes: compares what they hold."""

    type: Literal["cache:sync"]
    payload: CacheSyncPayload


def type_of(model: type[BaseModel]) -> str:
    """The type that frames of a model have."""
    return str(get_args(model.model_fields["type"].annotation)[0])


FROM_CLIENTS: Final[Mapping[str, type[Frame]]] = {
    type_of(model): model
    for model in (
        Auth,
        Ping,
        Subscribe,
        Unsubscribe,
        RecoveryRequest,
        AuthzCheck,
        CacheGet,
        CacheUpdate,
        CacheInvalidate,
        CacheWarm,
        Publish,
        BatchUpdate,
        ConflictResolve,
    )
}
FROM_NODES: Final[Mapping[str, type[Frame]]] = {type_of(model): model for model in (CacheSync,)}
RECEIVED: Final[Mapping[str, type[Frame]]] = {**FROM_CLIENTS, **FROM_NODES}
# the members whose text is kept as it was sent; what is in a batch is read by itself
EXACT: Final[Mapping[str, Parts]] = {
    "cache:update": parts("value", within=("payload",)),
    "publish": parts("message", within=("payload",)),
    "conflict:resolve": parts("data", within=("payload",)),
    "batch:update": parts(within=("payload",)),
}
