"""The document of the socket names every message, and refers to nothing that it does not have."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import httpx

from cachesvc.protocol.messages import FROM_SERVER
from cachesvc.realtime.session import SERVED


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


async def test_the_document_keeps_the_rules_of_asyncapi_3(http: httpx.AsyncClient) -> None:
    """Members that the specification of AsyncAPI 3.0.0 has, names that it allows; the messages of operations are those of their
    channel."""
    document = (await http.get("/asyncapi.json")).json()
    assert document.keys() <= {
        "asyncapi",
        "id",
        "info",
        "servers",
        "defaultContentType",
        "channels",
        "operations",
        "components",
    }
    assert {"title", "version"} <= document["info"].keys()
    channel = document["channels"]["realtime"]
    assert channel.keys() <= {"address", "messages", "title", "summary", "description", "servers", "parameters", "bindings"}
    for operation in document["operations"].values():
        assert {"action", "channel"} <= operation.keys() <= {"action", "channel", "messages", "summary", "description", "reply"}
        assert operation["action"] in ("send", "receive")
        assert operation["channel"] == {"$ref": "#/channels/realtime"}
        for reference in operation["messages"]:
            place, _, name = reference["$ref"].rpartition("/")
            assert place == "#/channels/realtime/messages"
            assert name in channel["messages"]
    components = document["components"]
    names = [*components["messages"], *components["schemas"], *channel["messages"], *document["operations"]]
    assert [name for name in names if not re.fullmatch(r"[\w.-]+", name)] == []
    for message in components["messages"].values():
        assert message.keys() <= {"name", "title", "summary", "description", "contentType", "payload", "headers", "examples"}
        assert message["payload"]
