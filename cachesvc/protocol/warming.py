"""Warming: what a request for it comes to, whichever way it comes."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field

from cachesvc.errors import InvalidInput, LimitExceeded
from cachesvc.model.keys import Key, module_of, parse_key
from cachesvc.model.pattern import parse_pattern
from cachesvc.model.warming import Warming, WarmSource, keys_of
from cachesvc.protocol.operations import Warm

_SLOWEST = 1.0  # keys a second: slower, a job that is cancelled would not end in its time


@dataclass(frozen=True, slots=True)
class WarmLimits:
    """The pace of a warm-up, unless it names one, and its limits; `templates` has how a module's keys are made, and `called`
    says which module another name is of."""

    rate: float = 10_000.0
    max_rate: float = 100_000.0
    concurrency: int = 16
    max_concurrency: int = 256
    max_keys: int = 100_000
    templates: Mapping[str, str] = field(default_factory=dict)
    called: Callable[[str], str] = str


def warming_of(body: Warm, limits: WarmLimits, loaded: Collection[str], *, path: str = "") -> Warming:
    """What the body asks for, checked. Raises `InvalidInput`, naming the member, which `path` leads to."""
    named = [name for name in ("module", "pattern", "keys") if getattr(body, name) not in (None, [])]
    if len(named) > 1:
        raise InvalidInput(f"{path}{named[1]}", f"cannot be given together with {named[0]}")
    source = WarmSource(body.source) if body.source else WarmSource.LOADER if body.module is not None else WarmSource.DATABASE
    if not named and source is not WarmSource.PEER:
        raise InvalidInput(f"{path}keys", "nothing is named: give keys, a pattern, or a module with userId and dataTypes")
    if body.peer is not None and source is not WarmSource.PEER:
        raise InvalidInput(f"{path}peer", "is for the source peer")
    if source is WarmSource.PEER and body.keys:
        raise InvalidInput(f"{path}keys", "cannot be given with the source peer, which is asked for them")
    if source is WarmSource.LOADER and body.pattern is not None:
        raise InvalidInput(f"{path}pattern", "says no keys to a loader: give keys, or a module with userId and dataTypes")
    pace = Warming(
        source,
        peer=body.peer or "",
        rate=_within(f"{path}rate", body.rate, limits.max_rate, limits.rate, least=_SLOWEST),
        concurrency=int(_within(f"{path}concurrency", body.concurrency, limits.max_concurrency, limits.concurrency)),
    )
    if body.pattern is not None:
        return pace._replace(pattern=parse_pattern(body.pattern, field=f"{path}pattern").text)
    keys = _module_keys(body, limits, path) if body.module is not None else _keys(body, limits.max_keys, path)
    if source is WarmSource.LOADER:
        for place, key in enumerate(keys):
            if module_of(key) not in loaded:
                member = "module" if body.module is not None else f"keys[{place}]"
                raise InvalidInput(f"{path}{member}", f"{module_of(key)} has no loader")
    return pace._replace(keys=keys)


def _module_keys(body: Warm, limits: WarmLimits, path: str) -> tuple[Key, ...]:
    assert body.module is not None
    if body.user_id is None:
        raise InvalidInput(f"{path}userId", "is missing")
    if not body.data_types:
        raise InvalidInput(f"{path}dataTypes", "is missing")
    module = body.module if body.module in limits.templates else limits.called(body.module)
    template = limits.templates.get(module)
    if template is None:
        raise InvalidInput(f"{path}module", "has no loader")
    _bound(f"{path}dataTypes", len(body.data_types), limits.max_keys)
    return keys_of(template, module, body.user_id, body.data_types)


def _keys(body: Warm, most: int, path: str) -> tuple[Key, ...]:
    _bound(f"{path}keys", len(body.keys), most)
    return tuple(dict.fromkeys(parse_key(key, field=f"{path}keys[{place}]") for place, key in enumerate(body.keys)))


def _bound(field: str, count: int, most: int) -> None:
    if count > most:
        raise LimitExceeded(field, f"has {count} items", most)


def _within(field: str, given: float | None, most: float, default: float, *, least: float = 0.0) -> float:
    if given is None:
        return min(default, most)
    if given > most:
        raise InvalidInput(field, f"must be up to {most:g}")
    if given < least:
        raise InvalidInput(field, f"must be at least {least:g}")
    return given
