"""Applied: to who asks for it by `wait=all`, a write is answered when every live node has applied it."""

from __future__ import annotations

from collections.abc import Mapping

from cachesvc.engine.answers import Written
from cachesvc.errors import InvalidInput
from cachesvc.web.call import Call, single


def waits(call: Call) -> bool:
    """Whether that is asked for; other parameters are refused."""
    wait = single(call.query("wait"), "wait")
    if wait not in (None, "all"):
        raise InvalidInput("wait", "must be all")
    return wait is not None


async def reached(call: Call, written: Written) -> Mapping[str, object]:
    """Wait for the nodes, and tell which have applied it; half the time of a request is for that."""
    service = call.service
    return (await service.node.reached(written.receipt.version, within=service.limits.request_timeout / 2)).told()
