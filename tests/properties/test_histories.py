"""Random histories, few enough for every run of the tests: `make faults` plays a hundred thousand."""

from __future__ import annotations

import pytest

from tests.properties.history import play
from tests.properties.redis_server import RealServer
from tests.properties.run import convict
from tests.properties.site import small
from tests.servers import Server

PART = 250  # in four parts, which run side by side
SEED = 1


@pytest.mark.parametrize("part", range(4))
def test_no_history_breaks_a_promise(part: int) -> None:
    first = SEED + part * PART
    for convicted in convict(range(first, first + PART)):
        pytest.fail(f"{convicted.violations[0]}; again: {convicted.replay}")


def test_the_same_seed_is_the_same_history() -> None:
    from tests.properties.history import History  # noqa: PLC0415

    with small():
        traces = []
        for _ in range(2):
            history = History(SEED, trace=True)
            history.run()
            traces.append(history.site.trace)
    assert traces[0] == traces[1]


def test_histories_over_the_real_scripts(valkey_server: Server, valkey_url: str) -> None:
    with small():
        for seed in range(10):
            server = RealServer(valkey_server.port)
            server.restore({})
            assert play(seed, redis=lambda _, server=server: server) == []
            server.close()
