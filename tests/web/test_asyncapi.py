"""The document of the socket: by the schema of AsyncAPI 3, of every message, and true of each golden frame."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from jsonschema import Draft7Validator

from cachesvc.protocol.messages import FROM_SERVER
from cachesvc.realtime.modules import SOURCE, Module, Modules
from cachesvc.realtime.session import SERVED
from cachesvc.realtime.told import tell
from cachesvc.web.app import create_app
from cachesvc.web.asyncapi import document as made
from cachesvc.web.live import Live
from tests.realtime.changes import written
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


@pytest.mark.parametrize("frame", sorted(golden_frames.PLACE.glob("*.json")), ids=lambda path: path.stem)
def test_a_golden_frame_is_as_the_document_says(frame: Path) -> None:
    """Each by the schema of its message alone, as a client would check it that knows nothing but the document."""
    schema = {**DOCUMENT, "$ref": f"#/components/messages/{frame.stem}/payload"}
    assert [error.message for error in Draft7Validator(schema).iter_errors(json.loads(frame.read_bytes()))] == []


def test_every_message_of_the_document_has_a_golden_frame() -> None:
    assert {frame.stem for frame in golden_frames.PLACE.glob("*.json")} == DOCUMENT["components"]["messages"].keys()
