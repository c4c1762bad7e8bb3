"""Explanation: what a node knows of a key, as it is told. A key that nobody has is explained like any other."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from starlette.responses import Response

from cachesvc.engine.explain import Explained, Explanation
from cachesvc.engine.last_reads import LastRead
from cachesvc.model.change import Change
from cachesvc.model.entry import JSON
from cachesvc.model.invalidation import InForce
from cachesvc.protocol import operations as told
from cachesvc.web.call import Call

PREFIX: Final = len("/v1/explain/")


async def get_explanation(call: Call) -> Response:
    call.query()
    key = call.key(PREFIX)
    call.require("read", key)
    explanation = await call.service.node.explain(key)
    identity = call.identity
    if explanation.dependents is not None and not identity.unrestricted:
        readable = [dependent for dependent in explanation.dependents if identity.may("read", dependent)]
        explanation = replace(explanation, dependents=readable)
    body = _told(explanation).model_dump_json(by_alias=True)
    return Response(body, headers={"Cache-Control": "no-store"}, media_type=JSON)


def _told(explanation: Explanation) -> told.Explanation:
    entry = explanation.newest
    dependents = explanation.dependents
    return told.Explanation(
        key=explanation.key,
        tiers={name: _tier(level, explanation.now) for name, level in explanation.levels.items()},
        content_type=entry.content_type or None if entry is not None else None,
        tags=list(entry.tags) if entry is not None else [],
        parents=list(entry.parents) if entry is not None else [],
        dependents=told.Dependents(keys=list(dependents), more=explanation.more_dependents) if dependents is not None else None,
        written_by=_writer(explanation.change) if explanation.change is not None else None,
        last_load=_read(explanation.last_load),
        invalidations=list(map(_in_force, explanation.patterns)),
        floor=explanation.floor,
        applied=str(explanation.applied),
        horizon=str(explanation.horizon),
    )


def _tier(level: Explained, now: float) -> told.TierExplained:
    holding = level.holding
    entry = holding.entry if level.present else None
    ends = entry.expires_at if entry is not None else None
    return told.TierExplained(
        present=level.present,
        live=entry is not None and entry.live(now) and not level.doubt,
        version=holding.version,
        ttl=_seconds(ends - now) if ends is not None else None,
        stays=_seconds(holding.stays) if holding.stays is not None else None,
        size=len(entry.value) if entry is not None else None,
        stored_size=holding.stored,
        believed=not level.doubt,
        doubt=level.doubt or None,
        replayed_to=str(holding.replayed) if holding.replayed is not None else None,
        last_read=_read(level.last),
    )


def _writer(change: Change) -> told.WrittenBy:
    entry = change.entry
    return told.WrittenBy(
        sequence=change.sequence,
        kind=change.kind.value,
        at=change.at,
        actor=entry.updated_by or None if entry is not None else None,
        source=entry.source or None if entry is not None else None,
        batch=change.id.rpartition("-")[0],
    )


def _in_force(one: InForce) -> told.InForce:
    return told.InForce(pattern=one.pattern.text, sequence=one.sequence, at=one.at, soft=one.soft, swept=one.retired > 0)


def _read(last: LastRead | None) -> told.Read | None:
    return told.Read(reason=last.reason.value, at=last.at) if last is not None else None


def _seconds(left: float) -> float:
    return round(max(0.0, left), 3)
