"""Each rule of coherence: with it its schedule holds, without it a promise breaks; over the fake Redis and over a real one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from random import Random

import pytest

from tests import servers
from tests.properties import schedules_of_nodes, schedules_of_redis  # noqa: F401 - they note themselves
from tests.properties.loop import Time
from tests.properties.redis_server import RealServer, RedisServer, Server
from tests.properties.rules import RULES, Rule
from tests.properties.schedule import SCHEDULES, Scheduled
from tests.properties.site import Site, small

SCRIPTED = [scheduled for scheduled in SCHEDULES if RULES[scheduled.rule].script is not None]


def name_of(scheduled: Scheduled) -> str:
    return scheduled.name


@contextmanager
def site_over(redis: Callable[[Time], Server]) -> Iterator[Site]:
    with small():
        site = Site(Random(1), redis=redis)
        try:
            yield site
        finally:
            site.end()
            if isinstance(site.redis, RealServer):
                site.redis.close()


def fake(rule: Rule | None) -> Callable[[Time], Server]:
    return lambda time: RedisServer(time, without=rule.name if rule is not None else "")


def real(port: int, texts: dict[str, bytes] | None = None) -> Callable[[Time], Server]:
    return lambda _: RealServer(port, texts)


def test_every_rule_has_its_schedule() -> None:
    assert {scheduled.rule for scheduled in SCHEDULES} == RULES.keys()


@pytest.mark.parametrize("scheduled", SCHEDULES, ids=name_of)
def test_with_the_rule_it_holds(scheduled: Scheduled) -> None:
    with site_over(fake(None)) as site:
        scheduled.play(site)
        assert site.broken == []


@pytest.mark.parametrize("scheduled", SCHEDULES, ids=name_of)
def test_without_the_rule_a_promise_breaks(scheduled: Scheduled) -> None:
    rule = RULES[scheduled.rule]
    with rule.without(), site_over(fake(rule)) as site:
        scheduled.play(site)
        assert scheduled.breaks in {violation.kind for violation in site.truth.violations}, rule.says


@pytest.mark.parametrize("scheduled", SCRIPTED, ids=name_of)
def test_the_real_script_keeps_it(scheduled: Scheduled, valkey_server: servers.Server, valkey_url: str) -> None:
    with site_over(real(valkey_server.port)) as site:
        scheduled.play(site)
        assert site.broken == []


@pytest.mark.parametrize("scheduled", SCRIPTED, ids=name_of)
def test_the_real_script_without_it_does_not(scheduled: Scheduled, valkey_server: servers.Server, valkey_url: str) -> None:
    rule = RULES[scheduled.rule]
    assert rule.script is not None
    with site_over(real(valkey_server.port, {rule.script.name: rule.script.text})) as site:
        scheduled.play(site)
        assert scheduled.breaks in {violation.kind for violation in site.truth.violations}, rule.says
