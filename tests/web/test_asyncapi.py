"""The document of the socket names every message, and refers to nothing that it does not have."""

from __future__ import annotations

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
