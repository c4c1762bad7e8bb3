"""Recovery over the socket: a connection is lost, and nothing else."""

from __future__ import annotations

import httpx

from cachesvc.model.position import Seq
from cachesvc.protocol.messages import FROM_SERVER
from tests.web.site import Site
from tests.web.sockets import Socket, connected


async def recovered(socket: Socket, **asked: object) -> tuple[list[int], bool]:
    """The versions that were missed, and whether those are all."""
    await socket.send("recovery:request", asked, requestId="recovery")
    versions: list[int] = []
    while True:
        frame = await socket.until(lambda frame: frame.get("correlationId") == "recovery")
        FROM_SERVER[frame["type"]].model_validate(frame)
        versions += [message["version"] for message in frame["payload"]["data"]]
        if frame["payload"]["isComplete"] or "error" in frame["payload"]:
            return versions, frame["payload"]["isComplete"]


async def test_what_was_missed_is_told_after_a_reconnect(site: Site, http: httpx.AsyncClient) -> None:
    async with site.served() as port:
        async with connected(port) as first:
            await first.ask("subscribe", {"resources": ["task"]})
            for i in range(3):
                await http.put(f"/v1/cache/task:{i}", json=i)
            seen = await first.next()
            first.connection.transport.abort()
        for i in range(200):
            await http.put(f"/v1/cache/task:{i}", json=i)
        async with connected(port) as second:
            await second.ask("subscribe", {"resources": ["task"]})
            session = first.seen[0]["payload"]["sessionId"]
            versions, complete = await recovered(
                second, lastSequenceNumber=seen["seq"], sessionId=session, epoch=seen["epoch"], position=seen["position"]
            )
            assert (versions, complete) == (list(range(1002, 1204)), True)
            await http.put("/v1/cache/task:9", json=9)
            live = await second.next()
            assert (live["version"], live["position"]) == (1204, 1204)


async def test_a_trimmed_log_says_so_and_the_session_goes_on(site: Site, http: httpx.AsyncClient) -> None:
    for i in range(5):
        await http.put(f"/v1/cache/task:{i}", json=i)
    site.feed._held.clear()
    site.feed._since = site.feed.position.sequence
    site.store.trimmed = Seq(1004)
    async with site.served() as port, connected(port) as socket:
        await socket.ask("subscribe", {"resources": ["task"]})
        versions, complete = await recovered(socket, lastSequenceNumber=1, sessionId="gone", epoch=7, position=1002)
        assert (versions, complete) == ([], False)
        assert await recovered(socket, lastSequenceNumber=1, sessionId="gone", epoch=7, position=1004) == ([1005], True)
        refused = await socket.ask("recovery:request", {"lastSequenceNumber": 0, "missingRanges": [{"start": 3, "end": 1}]})
        assert refused["payload"]["details"]["field"] == "payload.missingRanges[0]"
        await http.put("/v1/cache/task:9", json=9)
        assert (await socket.next())["version"] == 1006
