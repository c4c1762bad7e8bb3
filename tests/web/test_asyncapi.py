"""The document of the socket: by the schema of AsyncAPI 3, of every message, and true of each golden frame."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from jsonschema import Draft7Validator

from cachesvc.engine.conflicts import choice
from cachesvc.errors import CacheError
from cachesvc.model.keys import Key, parse_key
from cachesvc.protocol.drafts import draft_of, invalidation_of
from cachesvc.protocol.messages import FROM_SERVER
from cachesvc.protocol.warming import WarmLimits, warming_of
from cachesvc.realtime.modules import SOURCE, Module, Modules
from cachesvc.realtime.session import SERVED
from cachesvc.realtime.told import tell
from cachesvc.web.app import create_app
from cachesvc.web.asyncapi import document as made
from cachesvc.web.live import Live
from tests.realtime.changes import written
from tests.realtime.sessions import Said
from tests.web.site import Site
from tests.wire import golden_frames

SCHEMAS = Path(__file__).parents[1] / "schemas"
ASYNCAPI = Draft7Validator(json.loads((SCHEMAS / "asyncapi-3.0.0.json").read_bytes()))
DOCUMENT = made("1.2.3")


def references(part: Any) -> Iterator[str]:
    if isinstance(part, dict):
        for name, value in part.items():
            if name == "$ref":
                yield value
            else:
                yield from references(value)
    elif isinstance(part, list):
        for item in part:
            yield from references(item)


async def test_the_document(http: httpx.AsyncClient) -> None:
    answer = await http.get("/asyncapi.json")
    document = answer.json()
    assert (answer.status_code, document["asyncapi"], document["info"]["version"]) == (200, "3.0.0", "1.2.3")
    assert document["channels"]["realtime"]["address"] == "/v1/ws/realtime"
    for operation, action, models in (("commands", "receive", SERVED), ("messages", "send", FROM_SERVER)):
        told = document["operations"][operation]
        names = [reference["$ref"].rpartition("/")[2] for reference in told["messages"]]
        assert told["action"] == action
        assert {document["components"]["messages"][name]["name"] for name in names} == set(models)
    found = set(references(document))
    assert len(found) > 100
    for reference in found:
        place: Any = document
        for part in reference.removeprefix("#/").split("/"):
            place = place[part]
    subscribe = document["components"]["schemas"]["client.SubscribePayload"]
    assert subscribe["required"] == ["resources"]
    assert subscribe["properties"]["throttle"]["description"] == "milliseconds"


async def test_the_document_is_one_of_asyncapi_3(http: httpx.AsyncClient) -> None:
    document = (await http.get("/asyncapi.json")).json()
    assert [error.message for error in ASYNCAPI.iter_errors(document)] == []
    # what its schema cannot say: the messages of operations are those of their channel
    for operation in document["operations"].values():
        for reference in operation["messages"]:
            place, _, name = reference["$ref"].rpartition("/")
            assert place == "#/channels/realtime/messages"
            assert name in document["channels"]["realtime"]["messages"]


async def test_a_module_of_the_settings_is_described_as_it_is_told(site: Site) -> None:
    modules = Modules([Module("note", "note:update", entity="note", members=(SOURCE,))])
    site.app = create_app(site.service, Live(site.service, modules=modules))
    async with site.client() as http:
        document = (await http.get("/asyncapi.json")).json()
    assert [error.message for error in ASYNCAPI.iter_errors(document)] == []
    schema = {**document, "$ref": "#/components/messages/server.note-update/payload"}
    told = tell(written(1001, "note:1", {"a": 1}), modules, 7)
    assert told is not None
    frame = json.loads(told.frame(1, 1001))
    assert list(Draft7Validator(schema).iter_errors(frame)) == []
    del frame["payload"]["note"]
    assert [error.message for error in Draft7Validator(schema).iter_errors(frame)] == ["'note' is a required property"]


@pytest.mark.parametrize(
    ("payload", "member", "allowed"),
    [
        ("TaskPayload", "source", ["internal", "motion", "manual"]),
        ("CalendarPayload", "source", ["internal", "google"]),
        ("ContactPayload", "source", ["internal", "google"]),
        ("EmailNewPayload", "importance", ["low", "normal", "high"]),
        ("EmailStatusPayload", "status", ["read", "unread", "starred", "unstarred"]),
    ],
)
def test_the_document_says_the_values_of_the_specification(payload: str, member: str, allowed: list[str]) -> None:
    assert DOCUMENT["components"]["schemas"][f"server.{payload}"]["properties"][member]["enum"] == allowed


SET = {"key": "a", "operation": "set", "value": 1}


@pytest.mark.parametrize(
    ("kind", "payload", "valid"),
    [
        ("cache:update", SET, True),
        ("cache:update", SET | {"value": None}, True),
        ("cache:update", {"key": "a", "operation": "set"}, False),
        ("cache:update", {"key": "a", "operation": "delete"}, True),
        ("cache:update", SET | {"operation": "increment"}, True),
        ("cache:update", {"key": "a", "operation": "increment"}, True),
        ("cache:update", SET | {"operation": "increment", "value": "1"}, False),
        ("cache:update", SET | {"key": ""}, False),
        ("cache:update", SET | {"key": "k" * 513}, False),
        ("cache:update", SET | {"tags": [""]}, False),
        ("cache:update", SET | {"dependsOn": ["p" * 513]}, False),
        ("cache:update", SET | {"ttl": 0}, False),
        ("cache:get", {"key": "k" * 513}, False),
        ("publish", {"resource": "task"}, False),
        ("publish", {"resource": "task", "message": None}, True),
        ("cache:invalidate", {"cascade": True}, False),
        ("cache:invalidate", {"pattern": "a*"}, True),
        ("cache:invalidate", {"pattern": "p" * 513}, False),
        ("cache:invalidate", {"keys": [""]}, False),
        ("cache:warm", {"keys": [""]}, False),
        ("conflict:resolve", {"conflictId": "c"}, False),
        ("conflict:resolve", {"conflictId": "c", "data": None}, True),
        ("subscribe", {"resources": ["task"], "filters": {"a": [1, "b", None]}}, True),
        ("subscribe", {"resources": ["task"], "filters": {"a": {"b": 1}}}, False),
        ("subscribe", {"resources": ["task"], "filters": {"a": [[1]]}}, False),
    ],
)
def test_the_document_accepts_what_the_service_accepts(kind: str, payload: dict[str, Any], valid: bool) -> None:
    schema = {**DOCUMENT, "$ref": f"#/components/messages/client.{kind.replace(':', '-')}/payload"}
    assert Draft7Validator(schema).is_valid({"type": kind, "payload": payload}) == valid
    said = Said()
    said.session.open()
    said.raw()
    requests = said.session.receive(json.dumps({"type": kind, "requestId": "r", "payload": payload}))
    refused: list[object] = [frame for frame in said.frames() if frame["type"] == "error"]
    for request in requests:
        refused += refusals(request.frame)
    assert bool(refused) != valid


def refusals(frame: Any) -> list[CacheError]:
    """What a command is refused for before anything is asked of the cache."""
    said = frame.payload
    try:
        match frame.type:
            case "cache:update":
                draft_of(said, parse_key(said.key), max_value_size=100)
            case "cache:get":
                parse_key(said.key)
            case "cache:invalidate":
                invalidation_of(said, most=100)
            case "cache:warm":
                warming_of(said, WarmLimits(), ())
            case "conflict:resolve":
                choice("c", Key("a"), option=said.option, value=said.data)
    except CacheError as error:
        return [error]
    return []


def test_the_document_says_which_texts_are_times() -> None:
    schemas = DOCUMENT["components"]["schemas"]
    assert schemas["client.PingPayload"]["properties"]["timestamp"]["format"] == "date-time"
    assert schemas["server.TaskUpdate"]["properties"]["timestamp"]["format"] == "date-time"
    assert schemas["server.ReminderPayload"]["required"].count("key") == 1


@pytest.mark.parametrize("frame", sorted(golden_frames.PLACE.glob("*.json")), ids=lambda path: path.stem)
def test_a_golden_frame_is_as_the_document_says(frame: Path) -> None:
    """Each by the schema of its message alone, as a client would check it that knows nothing but the document."""
    schema = {**DOCUMENT, "$ref": f"#/components/messages/{frame.stem}/payload"}
    assert [error.message for error in Draft7Validator(schema).iter_errors(json.loads(frame.read_bytes()))] == []


def test_every_message_of_the_document_has_a_golden_frame() -> None:
    assert {frame.stem for frame in golden_frames.PLACE.glob("*.json")} == DOCUMENT["components"]["messages"].keys()
