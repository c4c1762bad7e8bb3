"""`authz:check` against the commands themselves: it says allowed of exactly what is not refused as forbidden."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, Final

import orjson
import pytest

from cachesvc.errors import CacheError
from cachesvc.model.change import Draft, Operation
from cachesvc.model.keys import Key
from cachesvc.model.position import Version
from cachesvc.ports import Loaded
from cachesvc.protocol.frames import FROM_CLIENTS
from cachesvc.protocol.warming import WarmLimits
from cachesvc.realtime.authentication import Names
from cachesvc.realtime.identity import Identity
from cachesvc.realtime.modules import Modules
from cachesvc.realtime.session import Session
from cachesvc.web.service import Limits
from tests.realtime.sessions import LIMITS
from tests.web.site import Site, opened

# by type: the action, and by what is asked for the resources that it is of
COMMANDS: Final[dict[str, tuple[str, list[tuple[dict[str, Any], list[str]]]]]] = {
    "subscribe": (
        "read",
        [
            ({"resources": [name]}, [name])
            for name in ("task", "tasks", "task:4", "tasks:4", "cache:task:*", "task:[4]", "\\task")
        ],
    ),
    "cache:get": (
        "read",
        [({"key": key}, [key]) for key in ("task:4", "task:4:x", "task:*", "task:[4]", "task:\\4", "note:4")],
    ),
    "cache:update": (
        "write",
        [
            ({"key": key, "operation": "set", "value": 1}, [key])
            for key in ("task:4", "task:?", "task:[4]", "task:\\4", "note:4")
        ],
    ),
    "cache:invalidate": (
        "invalidate",
        [
            ({"keys": ["task:4"]}, ["task:4"]),
            ({"keys": ["task:4", "note:4"]}, ["task:4", "note:4"]),
            ({"keys": ["task:\\4"]}, ["task:\\4"]),
            ({"pattern": "task:*"}, ["cache:task:*"]),
            ({"pattern": "task:4*"}, ["cache:task:4*"]),
            ({"pattern": "task:4"}, ["cache:task:4"]),
            ({"keys": ["note:4"], "pattern": "task:*"}, ["note:4", "cache:task:*"]),
            ({"keys": ["task:4"], "cascade": True}, ["task:4", "cache:*"]),
            ({"tags": ["x"]}, ["cache:*"]),
        ],
    ),
    "cache:warm": (
        "warm",
        [
            ({"keys": ["task:4"]}, ["task:4"]),
            ({"keys": ["task:4", "task:[4]"]}, ["task:4", "task:[4]"]),
            ({"pattern": "task:*"}, ["cache:task:*"]),
            ({"pattern": "*"}, ["cache:*"]),
            ({"module": "task", "userId": "u", "dataTypes": ["x", "y"]}, ["task:u:x", "task:u:y"]),
            ({"module": "tasks", "userId": "4", "dataTypes": ["x"]}, ["task:4:x"]),
            ({"keys": ["task:4"], "source": "loader"}, ["task:4"]),
            ({"source": "peer"}, ["cache:*"]),
        ],
    ),
    "publish": (
        "publish",
        [
            ({"resource": name, "message": 1}, [name])
            for name in ("task", "tasks", "task:4", "task:[4]", "task:\\4", "cache:task:*", "cache:*", "note")
        ],
    ),
    "conflict:resolve": ("resolve", [({"conflictId": "…", "option": 0}, ["task:4"])]),
    "batch:update": ("write", [({"batchId": "b", "syncId": "s", "updates": []}, ["task:s"])]),
}
NEED_NOTHING: Final = {"auth", "ping", "unsubscribe", "recovery:request", "authz:check"}
SCOPES: Final = ("*", "task:*", "task:4", "task:[4]", "task:?", "task:4*", "task:\\*", "note:4")


class Nothing:
    async def load(self, keys: Sequence[Key]) -> Mapping[Key, Loaded]:
        return {}


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    warming = WarmLimits(templates={"task": "{module}:{userId}:{dataType}"}, called=Modules().called)
    async with opened(limits=Limits(warming=warming), loaders={"task": Nothing()}) as site:
        yield site


@pytest.fixture
async def conflict(site: Site) -> str:
    key = Key("task:4")
    await site.cache.write(Draft(Operation.SET, key, b"1"))
    return (await site.cache.write(Draft(Operation.SET, key, b"2", base=Version(0)))).receipt.conflict


async def answers(site: Site, identity: Identity, kind: str, payload: object) -> list[dict[str, Any]]:
    """What a message of somebody is answered with, up to the first that ends it or goes on."""
    session = Session(Names("c", "s", "c"), LIMITS, site.clock, site.live._doorman, site.live.hub, identity, lambda: None)
    session.open()
    while session.next_frame() is not None:
        pass
    for request in session.receive(orjson.dumps({"type": kind, "requestId": "r", "payload": payload}).decode()):
        try:
            async for reply in site.live.commands.carry_out(request):
                session.answer(request.frame, reply.type, reply.payload)
                break
        except CacheError as error:
            session.fail(request.frame, error)
    session.end()
    told = []
    while (frame := session.next_frame()) is not None:
        told.append(orjson.loads(frame))
    return told


@pytest.mark.parametrize("kind", sorted(COMMANDS))
async def test_authz_check_says_what_the_command_does(site: Site, conflict: str, kind: str) -> None:
    action, asked = COMMANDS[kind]
    seen = set()
    identities = [Identity("ann", [f"{action}:{scope}"]) for scope in SCOPES]
    for identity in (*identities, Identity("bob", ["other:*"]), Identity("root", ["admin"])):
        for payload, resources in asked:
            allowed = True
            for resource in resources:
                [told] = await answers(site, identity, "authz:check", {"resource": resource, "action": action})
                allowed &= told["payload"]["allowed"]
            named = {"conflictId": conflict} if "conflictId" in payload else {}
            [answer] = await answers(site, identity, kind, payload | named)
            forbidden = answer["payload"].get("code") == "FORBIDDEN"
            assert allowed is not forbidden, (identity.scopes, payload, answer)
            seen.add(allowed)
    assert seen == {True, False}


def test_every_type_is_asked_about() -> None:
    assert COMMANDS.keys() | NEED_NOTHING == FROM_CLIENTS.keys()
