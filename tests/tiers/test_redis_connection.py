"""The connection: every scheme, and a server that is away, frozen or back again."""

from __future__ import annotations

import asyncio
import time
from contextlib import ExitStack
from pathlib import Path

import pytest
import redis
import uvloop

from cachesvc.errors import SettingsError, TierUnavailable
from cachesvc.model.entry import JSON, Entry, content_hash
from cachesvc.model.keys import Key
from cachesvc.model.position import Version
from cachesvc.ports import Mark
from tests import servers
from tests.fakes import FakeClock
from tests.faults import proxy
from tests.faults.proxy import Proxy
from tests.tiers.shelf import ALL, AT, redis_tier

CLOCK = FakeClock(time.time())
NOW = CLOCK.now()
ENTRY = Entry(Key("task:1"), Version(1_500), b"{}", JSON, NOW, NOW, NOW + 3_600, content_hash(JSON, b"{}"))


async def works(url: str) -> None:
    async with redis_tier(url, CLOCK) as tier:
        await tier.put([ENTRY], token=AT)
        assert await tier.get([ENTRY.key], horizon=AT) == {ENTRY.key: ENTRY}


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> servers.Certificates:
    if servers.REDIS7 is None or not servers.has_tls(servers.REDIS7):
        pytest.skip("no redis-server with TLS installed")
    return servers.make_certificates(tmp_path_factory.mktemp("tls"))


async def test_tls_with_a_checked_certificate(tls: servers.Certificates) -> None:
    assert servers.REDIS7 is not None
    with servers.redis_with_tls(servers.REDIS7, tls) as (_, port):
        await works(f"rediss://127.0.0.1:{port}?ssl_ca_certs={tls.authority}")
        with pytest.raises(TierUnavailable, match="certificate"):
            await works(f"rediss://127.0.0.1:{port}")


async def test_tls_to_a_cluster(tls: servers.Certificates) -> None:
    assert servers.REDIS7 is not None
    bus = str(servers.free_port())
    options = ("--cluster-enabled", "yes", "--tls-cluster", "yes", "--cluster-port", bus)
    with servers.redis_with_tls(servers.REDIS7, tls, *options) as (server, port):
        with redis.Redis(port=server.port) as client:
            client.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
            assert server.process is not None

            def formed() -> bool:
                return b"cluster_state:ok" in bytes(client.execute_command("CLUSTER", "INFO"))

            servers.wait_until(formed, process=server.process)
        await works(f"rediss+cluster://127.0.0.1:{port}?ssl_ca_certs={tls.authority}")


async def test_a_password_in_the_url() -> None:
    with servers.valkey() as server:
        with redis.Redis(port=server.port) as client:
            client.acl_setuser("app", enabled=True, passwords=["+s3cret"], keys=["*"], categories=["+@all"])
            client.acl_setuser("default", enabled=True, nopass=True, reset_keys=True, reset_channels=True, categories=["-@all"])
        await works(f"redis://app:s3cret@127.0.0.1:{server.port}")
        with pytest.raises(TierUnavailable) as raised:
            await works(f"redis://app:wr0ng@127.0.0.1:{server.port}")
        assert "wr0ng" not in str(raised.value)


async def test_a_unix_socket(tmp_path: Path) -> None:
    with servers.valkey("--unixsocket", str(tmp_path / "s")):
        await works(f"unix://{tmp_path / 's'}")


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1",
        "redis://127.0.0.1:port",
        "redis+cluster://127.0.0.1/3",
        "redis://127.0.0.1?ssl_ca=x",
        "redis+cluster://127.0.0.1?ssl_ca=x",
        "redis+sentinel://127.0.0.1/m?ssl_ca=x",
    ],
)
async def test_what_is_no_url_of_redis_is_a_bad_setting(url: str) -> None:
    with pytest.raises(SettingsError, match=r"levels\.redis\.url"):
        await works(url)


@pytest.mark.parametrize("scheme", ["redis", "redis+cluster"])
async def test_it_opens_while_nothing_answers(scheme: str) -> None:
    async with redis_tier(f"{scheme}://127.0.0.1:{servers.free_port()}", CLOCK, at=None) as tier:
        for _ in range(2):
            with pytest.raises(TierUnavailable, match=r"^redis: "):
                await tier.get([ENTRY.key], horizon=AT)
            with pytest.raises(TierUnavailable):
                await tier.put([ENTRY], token=AT)
            with pytest.raises(TierUnavailable):
                await tier.cursors()


async def test_a_server_that_went_and_came_back() -> None:
    with servers.valkey() as server:
        async with redis_tier(server.url, CLOCK) as tier:
            await tier.put([ENTRY], token=AT)
            server.kill()
            with pytest.raises(TierUnavailable):
                await tier.get([ENTRY.key], horizon=AT)
            server.start()
            assert await tier.get([ENTRY.key], horizon=AT) == {}
            await tier.restart(ALL, at=Mark(AT, ""))
            await tier.put([ENTRY], token=AT)
            assert await tier.get([ENTRY.key], horizon=AT) == {ENTRY.key: ENTRY}


async def test_a_restart_between_two_calls_is_not_even_noticed() -> None:
    with servers.valkey() as server:
        async with redis_tier(server.url, CLOCK) as tier:
            await tier.put([ENTRY], token=AT)
            server.kill()
            server.start()
            assert await tier.get([ENTRY.key], horizon=AT) == {}


@pytest.mark.parametrize("cluster", [False, True], ids=["standalone", "cluster"])
def test_a_connection_that_was_reset_while_idle(cluster: bool) -> None:
    """uvloop, which the service runs on, raises no OSError when such a one is written to."""

    async def ask(url: str, between: Proxy) -> None:
        async with redis_tier(url, CLOCK) as tier:
            await tier.put([ENTRY], token=AT)
            for _ in range(3):
                between.cut()
                while between.links:
                    await asyncio.sleep(0)
                assert await tier.get([ENTRY.key], horizon=AT) == {ENTRY.key: ENTRY}

    async def through_a_proxy(target: int, port: int) -> None:
        async with proxy.opened(target, port) as between:
            await ask(f"redis{'+cluster' * cluster}://127.0.0.1:{between.port}", between)

    port = servers.free_port()
    with ExitStack() as stack:
        if cluster:
            server = stack.enter_context(servers.valkey_cluster(1, announced=[port]))[0]
        else:
            server = stack.enter_context(servers.valkey())
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(through_a_proxy(server.port, port))


async def test_a_frozen_server_costs_a_time_limit_and_works_when_thawed() -> None:
    with servers.valkey() as server:
        async with redis_tier(server.url, CLOCK, timeout=0.2) as tier:
            await tier.put([ENTRY], token=AT)
            server.freeze()
            with pytest.raises(TierUnavailable, match="within"):
                await tier.get([ENTRY.key], horizon=AT)
            server.thaw()
            assert await tier.get([ENTRY.key], horizon=AT) == {ENTRY.key: ENTRY}
