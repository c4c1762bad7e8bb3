"""The OpenAPI document: the data routes by a table and the models of `protocol.api`, the operations by FastAPI.

A route of the data that is not in the table is not documented; a test compares the two.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from cachesvc.protocol import api
from cachesvc.protocol.conflicts import ConflictList, ConflictWhole
from cachesvc.protocol.exact import MAX_NESTING
from cachesvc.protocol.operations import Explanation, HotKeys, Jobs, JobTold, SyncAnswer, SyncOverview, Warm
from cachesvc.protocol.revoking import Revoke, Revoked
from cachesvc.protocol.snapshot import MEDIA_TYPE
from cachesvc.web.door import OPEN

Schema = dict[str, Any]  # JSON Schema: any JSON
_STRING: Final[Schema] = {"type": "string"}
_VERSION: Final[Schema] = {"type": "integer", "minimum": 1}


@dataclass(frozen=True, slots=True)
class Documented:
    """What the document says of one method of one path. `takes` "bytes" is a value as it is stored."""

    summary: str
    parameters: tuple[str, ...] = ()
    description: str = ""
    takes: type[BaseModel] | str = ""
    may_be_empty: bool = False
    gives: Mapping[int, type[BaseModel] | str] = field(default_factory=dict)
    problems: tuple[int, ...] = ()


# name: where it is sent, its schema, what it says
PARAMETERS: Final[Mapping[str, tuple[str, Schema, str]]] = {
    "key": ("path", {"type": "string", "minLength": 1, "maxLength": 512}, "Percent-encoded UTF-8; '/' may stand as itself"),
    "ttl": ("query", {"type": "number", "exclusiveMinimum": 0, "maximum": api.MAX_TTL}, "Seconds to live"),
    "tags": (
        "query",
        {"type": "array", "items": _STRING, "maxItems": api.MAX_NAMES},
        "May be repeated. Redis as the authority keeps no index of them",
    ),
    "depends_on": ("query", {"type": "array", "items": _STRING, "maxItems": api.MAX_NAMES}, "Parents; may be repeated"),
    "distribute": ("query", {"type": "boolean", "default": True}, "Whether it is sent to other sites"),
    "pattern": ("query", {"type": "string", "default": "*"}, "A glob: * ? [abc] [a-z] [!a], \\ escapes"),
    "id": ("path", _STRING, "Of a job, or a conflict"),
    "state": ("query", {"type": "string", "enum": ["open", "settled"]}, "Of a conflict"),
    "force": ("query", {"type": "boolean", "default": False}, "Also where what happened since cannot be known"),
    "wait": ("query", {"type": "string", "enum": ["all"]}, "Answers once every live node has applied it, or says which not"),
    "limit": ("query", {"type": "integer", "minimum": 1, "maximum": 1000, "default": 100}, "Entries of a page"),
    "cursor": ("query", _STRING, "From the page before"),
    "FIELD": ("query", _STRING, "Any indexed field, dotted; repeated: one of the values"),
    "after": ("query", _STRING, "A position, epoch:sequence; the default is now"),
    "Last-Event-ID": ("header", _STRING, "A position; wins over after"),
    "If-Match": (
        "header",
        _STRING,
        'Only for a version that is one of these: "version", a list of them, or *; 412 for any other',
    ),
    "If-None-Match": ("header", _STRING, "Only for a version that is none of these: 304 to a read, 412 to a write"),
    "Cache-Control": ("header", _STRING, "no-cache, max-age=seconds, only-if-cached, max-stale[=seconds]"),
    "Min-Version": ("header", _VERSION, "Waits until this node has applied it"),
    "Fill-Token": ("header", _STRING, "From the miss that the value answers: refused if anything changed since"),
    "Idempotency-Key": ("header", {"type": "string", "maxLength": 255}, "Sent again, it is answered with the same again"),
}
_WRITE: Final = ("key", "If-Match", "If-None-Match", "Fill-Token", "Idempotency-Key")
_READ: Final = ("key", "If-Match", "If-None-Match", "Cache-Control", "Min-Version")

DATA: Final[Mapping[str, Mapping[str, Documented]]] = {
    "/v1/cache/{key}": {
        "get": Documented(
            "The value, as it was stored",
            _READ,
            "An entry older than max-age is read anew from where it is kept for good, and is then answered however old it is.",
            gives={200: "bytes", 304: ""},
            problems=(400, 404, 412, 422, 503, 504),
        ),
        "head": Documented(
            "What GET tells, without the value", _READ, gives={200: "", 304: ""}, problems=(400, 404, 412, 422, 503, 504)
        ),
        "put": Documented(
            "Write a value of any content type",
            (*_WRITE, "ttl", "tags", "depends_on", "distribute"),
            f"JSON (application/json and +json) is validated, up to {MAX_NESTING} levels deep; any other type is kept unread.",
            takes="bytes",
            gives={200: api.Done, 201: api.Done},
            problems=(400, 412, 413, 415, 422, 503),
        ),
        "delete": Documented(
            "Delete; recorded also when there is nothing",
            (*_WRITE, "distribute"),
            gives={204: ""},
            problems=(400, 404, 412, 422, 503),
        ),
        "post": Documented(
            "Set, delete or increment",
            _WRITE,
            takes=api.Update,
            gives={200: api.Done, 201: api.Done},
            problems=(400, 404, 412, 413, 415, 422, 503),
        ),
    },
    "/v1/batch": {
        "post": Documented(
            "Many operations, one result each, in order",
            ("Idempotency-Key",),
            "Of a get, a value that is JSON is told as it is, and any other, text too, in base64 (encoding says so)."
            " One that fails leaves the others; a body that is not JSON fails the whole. The Idempotency-Key is of the whole"
            " request. Sent again with it, each write is answered with its first result and none is carried out twice (the"
            " answer then has Idempotency-Replayed: true), while reads are answered anew. Any other request with it is"
            " refused (422), and nothing of it is done. Without a key, the X-Request-Id of the answer is one.",
            takes=api.Batch,
            gives={200: api.BatchResults},
            problems=(400, 413, 415, 422, 503),
        ),
    },
    "/v1/invalidate": {
        "post": Documented(
            "Invalidate by keys, by pattern, by tags, and what depends on them",
            ("wait", "Idempotency-Key"),
            "In force at once on every node that has applied its sequence, whatever the number of keys; what is written"
            " after it is not touched, and what was read before it is put back into no tier.",
            takes=api.Invalidate,
            gives={200: api.InvalidateAnswer},
            problems=(400, 413, 415, 422, 503),
        ),
    },
    "/v1/warm": {
        "post": Documented(
            "Bring entries up before they are asked for, as a job",
            (),
            "202 and a new job, or 200 and the one that does the same already. Nothing newer is replaced, and memory takes"
            " only what it has room for.",
            takes=Warm,
            gives={200: JobTold, 202: JobTold},
            problems=(400, 413, 415, 422, 503),
        ),
    },
    "/v1/hot": {
        "get": Documented(
            "What the node's memory holds, the hottest first", ("limit",), gives={200: HotKeys}, problems=(400, 422)
        ),
    },
    "/v1/keys": {
        "get": Documented(
            "Keys by pattern", ("pattern", "limit", "cursor"), gives={200: api.KeyPage}, problems=(400, 422, 503)
        ),
    },
    "/v1/query": {
        "get": Documented(
            "Entries by indexed fields", ("FIELD", "limit", "cursor"), gives={200: api.EntryPage}, problems=(400, 422, 503)
        ),
    },
    "/v1/explain/{key}": {
        "get": Documented(
            "What each tier holds of a key, who wrote it, and why the last read hit or missed; of a key that nobody has, too",
            ("key",),
            gives={200: Explanation},
            problems=(400, 422, 503),
        ),
    },
    "/v1/snapshot": {
        "get": Documented(
            "The live entries that match, as checksummed lines of JSON",
            ("pattern",),
            "The first line is a SnapshotHeader; then a SnapshotEntry each, in byte order of the keys; after every thousand a"
            " SnapshotChecksum, and one at the end. One without its end was cut off.",
            gives={200: "lines"},
            problems=(400, 422, 503),
        ),
    },
    "/v1/restore": {
        "post": Documented(
            "Take a snapshot back, as a job",
            ("force",),
            "All of it is verified before anything is written. An entry comes back only where nothing as new is there, and"
            " where it was neither deleted nor invalidated since; where the log does not reach back so far, only with force.",
            takes="lines",
            gives={200: JobTold, 202: JobTold},
            problems=(400, 409, 413, 422, 503),
        ),
    },
    "/v1/jobs": {
        "get": Documented(
            "Jobs, the newest first; the sweeps of invalidations among them",
            ("limit",),
            gives={200: Jobs},
            problems=(400, 422, 503),
        ),
    },
    "/v1/jobs/{id}/events": {
        "get": Documented(
            "A job each time it has come further, as server-sent events: progress, and end when it has ended",
            ("id",),
            gives={200: "events"},
            problems=(400, 404, 422, 503),
        ),
    },
    "/v1/jobs/{id}": {
        "get": Documented("A job", ("id",), gives={200: JobTold}, problems=(400, 404, 422, 503)),
        "delete": Documented(
            "Cancel a job; one that has ended stays as it is, and the sweep of an invalidation goes on (409)",
            ("id",),
            gives={200: JobTold},
            problems=(400, 404, 409, 422, 503),
        ),
    },
    "/v1/conflicts": {
        "get": Documented(
            "Conflicts by pattern of their keys, the newest first",
            ("pattern", "state", "limit", "cursor"),
            gives={200: ConflictList},
            problems=(400, 422, 503),
        ),
    },
    "/v1/conflicts/{id}": {
        "get": Documented(
            "A conflict with its versions, those that lost among them",
            ("id",),
            gives={200: ConflictWhole},
            problems=(400, 404, 422, 503),
        ),
    },
    "/v1/sync": {
        "post": Documented(
            "Compare what this node's memory and Redis hold with the authority, now",
            (),
            "By key, version and content, in paced batches. What differs also at a second look, when the tier must have been"
            " told, is taken out and counted. One at a time: a second request joins the first. 202 where it takes longer than"
            " half of the time limit of a request; it goes on, and GET tells of it. An empty body asks for everything.",
            takes=api.Sync,
            may_be_empty=True,
            gives={200: SyncAnswer, 202: SyncAnswer},
            problems=(400, 413, 415, 422, 503),
        ),
        "get": Documented("The latest audits, of every node", gives={200: SyncOverview}, problems=(422, 503)),
    },
    "/v1/revocations": {
        "post": Documented(
            "Believe a token no more, or those of a subject; for administrators",
            ("wait", "Idempotency-Key"),
            "A node that has applied the sequence refuses such tokens, ends their streams and closes their sockets (4505).",
            takes=Revoke,
            gives={200: Revoked},
            problems=(400, 413, 415, 422, 503),
        ),
    },
    "/v1/changes": {
        "get": Documented(
            "The change log as server-sent events, each with id epoch:sequence",
            ("after", "Last-Event-ID", "pattern"),
            gives={200: "events"},
            problems=(400, 410, 422, 503),
        ),
    },
}


_STRICT: Final = ("/v1/stats", "/v1/nodes")  # of the operations, those that refuse unknown parameters
_WHO: Final = {401: "No credentials, or none that are believed", 403: "Not allowed", 429: "More than the rate allows"}


def document(app: FastAPI) -> Schema:
    """The whole document, made once."""
    if app.openapi_schema:
        return app.openapi_schema
    schema: Schema = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
    models = {model for methods in DATA.values() for said in methods.values() for model in _models(said)} | {api.Problem}
    ordered = sorted(models, key=lambda model: model.__name__)
    _, definitions = models_json_schema(
        [(model, "serialization") for model in ordered], ref_template="#/components/schemas/{model}"
    )
    schema.setdefault("components", {}).setdefault("schemas", {}).update(definitions["$defs"])
    schema["components"]["securitySchemes"] = {"bearer": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"}}
    schema["security"] = [{"bearer": []}, {}]  # or none, where nobody is asked for credentials
    paths = {path: {method: _operation(said) for method, said in methods.items()} for path, methods in DATA.items()}
    schema["paths"] = {**paths, **schema.get("paths", {})}
    for path, methods in schema["paths"].items():
        for operation in methods.values():
            _refusable(operation, path)
    app.openapi_schema = schema
    return schema


def _models(said: Documented) -> list[type[BaseModel]]:
    return [model for model in (said.takes, *said.gives.values()) if not isinstance(model, str)]


def _operation(said: Documented) -> Schema:
    operation: Schema = {
        "tags": ["Data"],
        "summary": said.summary,
        **({"description": said.description} if said.description else {}),
        "parameters": [_parameter(name) for name in said.parameters],
        "responses": {str(status): _response(status, model) for status, model in said.gives.items()},
    }
    for status in said.problems:
        operation["responses"][str(status)] = _problem("A problem")
    if said.takes:
        operation["requestBody"] = {"required": not said.may_be_empty, "content": _content(said.takes)}
    return operation


def _refusable(operation: Schema, path: str) -> None:
    """Say what any request may be refused with, besides what the operation says itself."""
    responses = operation["responses"]
    if path in OPEN:
        operation["security"] = []
    else:
        responses |= {str(status): _problem(why) for status, why in _WHO.items()}
    if path in _STRICT:
        responses["422"] = _problem("A problem")
    responses["default"] = _problem("Any other problem, such as of the limits of a connection, or of a node")


def _problem(description: str) -> Schema:
    return {"description": description, "content": {"application/problem+json": {"schema": _ref(api.Problem)}}}


def _parameter(name: str) -> Schema:
    place, schema, description = PARAMETERS[name]
    return {"name": name, "in": place, "required": place == "path", "schema": schema, "description": description}


def _response(status: int, model: type[BaseModel] | str) -> Schema:
    description = {201: "There was no entry before", 202: "It goes on", 204: "Deleted", 304: "Not modified"}.get(status, "Done")
    return {"description": description, "content": _content(model)} if model else {"description": description}


def _content(model: type[BaseModel] | str) -> Schema:
    if model == "bytes":
        return {"application/json": {"schema": {}}, "*/*": {"schema": {"type": "string", "format": "binary"}}}
    if model == "lines":
        return {MEDIA_TYPE: {"schema": _STRING}}
    if isinstance(model, str):
        return {"text/event-stream": {"schema": _STRING}}
    return {"application/json": {"schema": _ref(model)}}


def _ref(model: type[BaseModel]) -> Schema:
    return {"$ref": f"#/components/schemas/{model.__name__}"}
