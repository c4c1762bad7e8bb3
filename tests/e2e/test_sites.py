"""Two sites as users run them, each over a database of its own, and a network between them that fails."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tests.e2e.test_conflicts import port_of
from tests.sites.deployments import Deployment, agreed, connected, deployed, until
from tests.web.sockets import connected as listening


async def test_two_sites(tmp_path: Path) -> None:
    """One pair of them for all of this: the order matters to what is compared alone."""
    async with deployed(tmp_path, "berlin", "oslo") as sites:
        await compared(sites)
        await invalidated(sites)
        await written_apart(sites)


async def compared(sites: Sequence[Deployment]) -> None:
    """They are compared when that is asked for."""
    berlin, oslo = sites
    await oslo.put("task:1", 1)
    await agreed(sites, "task:1", 1)
    answer = await berlin.client.post("/v1/sync", json={"sites": ["oslo"]})
    assert answer.status_code == 200, answer.text
    report = answer.json()["sites"]["oslo"]
    assert (report["differing"], report["repaired"], report["error"], report["entries"]) == (0, 0, None, 1)
    answer = await berlin.client.post("/v1/sync", json={"sites": ["rome"]})
    assert answer.status_code == 422
    assert answer.json()["field"] == "sites[0]"


async def invalidated(sites: Sequence[Deployment]) -> None:
    """An invalidation reaches the other."""
    berlin, oslo = sites
    for number in range(5):
        await berlin.put(f"user:{number}", number)
        await berlin.put(f"task:{number}", number)
    await agreed(sites, "task:4", 4)
    answer = await oslo.client.post("/v1/invalidate", json={"pattern": "user:*"})
    assert answer.status_code == 200, answer.text
    answer = await oslo.client.post("/v1/invalidate", json={"keys": ["task:0"]})
    for number in range(5):
        await agreed(sites, f"user:{number}", None)
    await agreed(sites, "task:0", None)
    assert await berlin.get("task:1") == 1


async def written_apart(sites: Sequence[Deployment]) -> None:
    """What one writes the other has, and what both wrote apart both have alike."""
    berlin, oslo = sites
    await berlin.put("task:1", {"done": False})
    await agreed(sites, "task:1", {"done": False})
    await oslo.put("task:2", "of oslo")
    await agreed(sites, "task:2", "of oslo")
    await berlin.delete("task:1")
    await agreed(sites, "task:1", None)
    await berlin.put("task:9", "of berlin alone", distribute="false")

    for site in sites:
        site.cut()
    await berlin.put("task:3", "written apart")
    await berlin.put("both", "of berlin")
    await oslo.put("both", "of oslo, and later")
    await oslo.delete("task:2")
    for amount in range(1, 11):
        await berlin.increment("counter", amount)
        await oslo.increment("counter", 100 * amount)
    for site in sites:
        site.heal()
    await connected(sites)
    await agreed(sites, "task:3", "written apart")
    await agreed(sites, "both", "of oslo, and later")
    await agreed(sites, "task:2", None)
    await agreed(sites, "counter", 55 + 5_500)
    for site, other in ((berlin, oslo), (oslo, berlin)):
        assert (await site.stats(other.name))["conflicts"] == 1
    told = [(await site.client.get("/v1/conflicts?pattern=both")).json()["conflicts"] for site in sites]
    assert [len(conflicts) for conflicts in told] == [1, 1]
    assert told[0][0]["conflictId"] == told[1][0]["conflictId"]
    for site in sites:
        kept = (await site.client.get(f"/v1/conflicts/{told[0][0]['conflictId']}")).json()["versions"]
        assert {one["version"]["data"] for one in kept} == {"of berlin", "of oslo, and later"}
    assert await oslo.get("task:9") is None


async def test_what_one_site_settled_by_hand_is_settled_at_the_other(tmp_path: Path) -> None:
    by_hand = '[conflicts.modules.task]\nstrategy = "manual"'
    async with deployed(tmp_path, "berlin", "oslo", more=by_hand) as sites:
        berlin, oslo = sites
        for site in sites:
            site.cut()
        await berlin.put("task:1", "of berlin")
        await oslo.put("task:1", "of oslo, and later")
        for site in sites:
            site.heal()
        await agreed(sites, "task:1", "of oslo, and later")
        for site in sites:
            await until(lambda site=site: listed(site, "open"))  # type: ignore[misc]
        (name,) = {conflict["conflictId"] for site in sites for conflict in await listed(site, "open")}
        async with listening(port_of(berlin.url)) as there, listening(port_of(oslo.url)) as here:
            await there.ask("subscribe", {"resources": ["task"]})
            kept = (await oslo.client.get(f"/v1/conflicts/{name}")).json()["versions"]
            roles = [one["role"] for one in kept if one["version"]["data"] == "of berlin"]
            assert roles == ["remote"]
            answer = await here.ask("conflict:resolve", {"conflictId": name, "option": 1})
            assert answer["type"] == "ack", answer
            told = await there.until(lambda frame: frame["type"] == "conflict:resolved")
        assert told["payload"]["conflictId"] == name
        assert told["payload"]["result"]["data"] == "of berlin"
        await agreed(sites, "task:1", "of berlin")
        for site, role in ((berlin, "local"), (oslo, "remote")):
            assert await listed(site, "open") == []
            (settled,) = await listed(site, "settled")
            assert (settled["conflictId"], settled["strategy"]) == (name, "manual")
            assert settled["accepted"] == [role] != settled["rejected"]


async def listed(site: Deployment, state: str) -> list[dict[str, object]]:
    found: list[dict[str, object]] = (await site.client.get(f"/v1/conflicts?state={state}")).json()["conflicts"]
    return found
