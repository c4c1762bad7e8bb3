"""The supervisor, with fake workers and the real embedded Valkey."""

from __future__ import annotations

import os
import signal
import socket
from pathlib import Path

import httpx
import psutil
import pytest
import redis

from tests.processes.services import gone, serving
from tests.servers import wait_until

WITHOUT_REDIS = {"levels__redis__enabled": "false"}


def valkey(data_dir: Path) -> redis.Redis:
    return redis.Redis(unix_socket_path=str(data_dir / "valkey.sock"))


def answers(data_dir: Path) -> bool:
    try:
        with valkey(data_dir) as client:
            return bool(client.ping())
    except redis.ConnectionError:
        return False


def test_serves_on_a_port_of_its_choice_and_says_where(tmp_path: Path) -> None:
    with serving(tmp_path, "--workers", "2", **WITHOUT_REDIS) as service:
        url = service.ready()
        told = httpx.get(url).json()
        assert service.lines == [f"cachesvc is ready on {url} (2 workers, memory + database)"]
        assert told["settings"]["server"]["data_dir"] == str(tmp_path)
        assert told["settings"]["levels"]["database"]["url"] == f"sqlite:///{tmp_path}/cachesvc.db"
        assert len(service.children()) == 2
        assert service.stop() == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_answers_what_is_in_flight_before_it_ends(tmp_path: Path, number: int) -> None:
    with serving(tmp_path, **WITHOUT_REDIS) as service, httpx.stream("GET", f"{service.ready()}/late", timeout=30) as answer:
        lines = answer.iter_lines()
        assert next(lines) == "began"
        service.process.send_signal(number)
        assert next(lines) == "answered"
        assert service.ended() == 0


def test_a_second_signal_ends_it_at_once(tmp_path: Path) -> None:
    with serving(tmp_path, **WITHOUT_REDIS) as service:
        service.ready()
        worker = service.child("fake_worker")
        worker.suspend()
        service.process.send_signal(signal.SIGTERM)
        service.process.send_signal(signal.SIGINT)
        assert service.ended() == 0
        assert gone([worker]) == []


def test_a_worker_that_does_not_stop_is_killed(tmp_path: Path) -> None:
    with serving(tmp_path, server__shutdown_timeout="10ms", **WITHOUT_REDIS) as service:
        service.ready()
        worker = service.child("fake_worker")
        worker.suspend()
        assert service.stop() == 0
        assert gone([worker]) == []


def test_nothing_outlives_its_kill_9(tmp_path: Path) -> None:
    with serving(tmp_path, "--workers", "2") as service:
        service.ready()
        children = service.children()
        assert len(children) == 3
        service.child("fake_worker").suspend()  # it cannot notice by itself
        service.process.kill()
        assert gone(children) == []


def test_a_crashed_worker_is_started_again(tmp_path: Path) -> None:
    with serving(tmp_path, **WITHOUT_REDIS) as service:
        url = service.ready()
        before = httpx.get(url).json()["pid"]
        with pytest.raises(httpx.HTTPError):
            httpx.get(f"{url}/crash")
        service.said(r"worker 0 ended with 9; started again in 0\.1 s")
        wait_until(lambda: httpx.get(url).status_code == 200, process=service.process)
        assert httpx.get(url).json()["pid"] != before
        os.kill(httpx.get(url).json()["pid"], signal.SIGKILL)
        service.said(r"worker 0 was killed by SIGKILL; started again in 0\.2 s")


def test_keeps_trying_to_start_a_worker(tmp_path: Path) -> None:
    with serving(tmp_path, worker=["--exit", "1", "--once", str(tmp_path / "tried")], **WITHOUT_REDIS) as service:
        service.said("worker 0 ended with 1; started again")
        httpx.get(service.ready())


@pytest.mark.parametrize("code", [2, 3])
def test_settings_and_schema_that_cannot_work_end_it(tmp_path: Path, code: int) -> None:
    with serving(tmp_path, "--workers", "3", worker=["--exit", str(code)]) as service:
        assert service.ended() == code
        assert service.lines == [f"fake: ending with {code}"]


def test_a_taken_port_is_said(tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with serving(tmp_path, "--port", str(port)) as service:
            assert service.ended() == 1
            assert service.lines == [f"cachesvc: port {port} on 127.0.0.1 is taken by another process"]


def test_a_taken_directory_is_said(tmp_path: Path) -> None:
    with serving(tmp_path, **WITHOUT_REDIS) as first:
        first.ready()
        with serving(tmp_path, **WITHOUT_REDIS) as second:
            assert second.ended() == 1
            assert second.lines == [
                f"cachesvc: the directory {tmp_path} is in use by another cachesvc (process {first.process.pid})"
            ]
        httpx.get(f"{first.lines[0].split()[4]}")


def test_a_directory_that_cannot_be_made_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with serving(tmp_path / "file" / "var") as service:
        assert service.ended() == 1
        assert service.lines == [f"cachesvc: the directory {tmp_path}/file/var cannot be written: Not a directory"]


def test_a_bad_setting_is_said_once_and_shows_no_password(tmp_path: Path) -> None:
    with serving(tmp_path, levels__redis__url="redis:/user:secret@somewhere") as service:
        assert service.ended() == 2
        assert len(service.lines) == 1
        assert service.lines[0].startswith("cachesvc: setting levels.redis.url = ")
        assert "secret" not in service.lines[0]


def test_valkey_keeps_its_data_over_a_restart(tmp_path: Path) -> None:
    with serving(tmp_path) as service:
        told = httpx.get(service.ready()).json()["settings"]["levels"]["redis"]
        assert (told["url"], told["embedded"]) == (f"unix://{tmp_path}/valkey.sock", False)
        with valkey(tmp_path) as client:
            client.set("a", "1")
        assert service.stop() == 0
    with serving(tmp_path) as service:
        service.ready()
        with valkey(tmp_path) as client:
            assert client.get("a") == b"1"


def test_valkey_as_the_authority_keeps_every_write_over_kill_9(tmp_path: Path) -> None:
    with serving(tmp_path, levels__database__enabled="false") as service:
        service.ready()
        with valkey(tmp_path) as client:
            client.set("a", "1")
        children = service.children()
        service.process.kill()
        assert gone(children) == []
    with serving(tmp_path, levels__database__enabled="false") as service:
        service.ready()
        with valkey(tmp_path) as client:
            assert client.get("a") == b"1"
            assert client.config_get("appendfsync") == {"appendfsync": "always"}
            assert client.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}


def test_valkey_is_stopped_after_the_last_worker(tmp_path: Path) -> None:
    with serving(tmp_path) as service, httpx.stream("GET", f"{service.ready()}/late", timeout=30) as answer:
        lines = answer.iter_lines()
        assert next(lines) == "began"
        store = service.child("valkey-server")
        service.process.send_signal(signal.SIGTERM)
        assert list(lines) == ["answered", "valkey listens"]
        assert service.ended() == 0
        assert gone([store]) == []


def test_a_dead_valkey_is_started_again(tmp_path: Path) -> None:
    with serving(tmp_path) as service:
        service.ready()
        service.child("valkey-server").kill()
        service.said("the embedded Valkey was killed by SIGKILL; started again in 0.1 s")
        wait_until(lambda: answers(tmp_path), process=service.process)
        assert service.stop() == 0


def test_a_valkey_that_cannot_start_is_said(tmp_path: Path) -> None:
    (tmp_path / "valkey").mkdir()
    (tmp_path / "valkey" / "dump.rdb").write_bytes(b"REDIS0011 no, it is not")
    with serving(tmp_path) as service:
        assert service.ended() == 1
        assert service.lines == [f"cachesvc: the embedded Valkey did not start; {tmp_path}/valkey/valkey.log says why"]


def test_a_long_data_directory_still_gives_a_socket(tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 100)
    with serving(deep) as service:
        url = httpx.get(service.ready()).json()["settings"]["levels"]["redis"]["url"]
        path = Path(url.removeprefix("unix://"))
        assert len(str(path)) < 100
        with redis.Redis(unix_socket_path=str(path)) as client:
            assert client.ping()
        assert service.stop() == 0
        assert not path.parent.exists()


def test_children_get_no_descriptor_that_is_not_theirs(tmp_path: Path) -> None:
    with serving(tmp_path, **WITHOUT_REDIS) as service:
        service.ready()
        files = [file.path for file in psutil.Process(service.child("fake_worker").pid).open_files()]
        assert str(tmp_path / "lock") not in files
