"""Settings: their order, their spellings, and what is said of bad ones."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from cachesvc.errors import SettingsError
from cachesvc.settings import BUILT_IN, Settings, load_settings

CONFIG = Path(__file__).parents[2] / "config"


def load(toml: str = "", *, tmp_path: Path | None = None, env: Mapping[str, str] | None = None, **overrides: Any) -> Settings:
    file = None
    if tmp_path is not None:
        file = tmp_path / "cachesvc.toml"
        file.write_text(toml + '\n[levels.database]\nurl = "sqlite:x.db"\n[levels.redis]\nenabled = false\n')
    return load_settings(file, environ=env or {}, overrides=overrides)


def refused(toml: str = "", *, tmp_path: Path | None = None, env: Mapping[str, str] | None = None, **overrides: Any) -> str:
    with pytest.raises(SettingsError) as caught:
        load(toml, tmp_path=tmp_path, env=env, **overrides)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_the_command_line_beats_the_environment_beats_the_file_beats_the_defaults(tmp_path: Path) -> None:
    env = {"CACHESVC_SERVER__PORT": "2", "CACHESVC_SERVER__WORKERS": "2"}
    server = load(
        "server = {port = 1, workers = 1, shutdown_timeout = 1}", tmp_path=tmp_path, env=env, server={"port": 3}
    ).server
    assert (server.port, server.workers, server.shutdown_timeout, server.host) == (3, 2, 1.0, "127.0.0.1")


def test_without_a_file_it_is_the_embedded_configuration() -> None:
    assert load() == load_settings(CONFIG / "embedded.toml", environ={})
    assert load().levels.redis.embedded
    assert BUILT_IN.samefile(CONFIG / "embedded.toml")


@pytest.mark.parametrize("file", sorted(CONFIG.glob("*.toml")), ids=lambda file: file.name)
def test_every_configuration_that_comes_along_is_accepted(file: Path) -> None:
    load_settings(file, environ={})


def test_the_file_may_use_the_names_of_the_specification(tmp_path: Path) -> None:
    toml = 'levels.memory = {maxSize = 7, evictionPolicy = "FIFO", ttl = "90s"}'
    memory = load(toml, tmp_path=tmp_path, env={"CACHESVC_LEVELS__MEMORY__MAX_SIZE": "8"}).levels.memory
    assert (memory.max_size, memory.eviction_policy, memory.ttl) == (8, "FIFO", 90.0)


def test_a_setting_in_both_spellings_is_refused(tmp_path: Path) -> None:
    said = refused("levels.memory = {maxSize = 7, max_size = 8}", tmp_path=tmp_path)
    assert said == "setting levels.memory.max_size = 8: is given twice, as maxSize and max_size"


@pytest.mark.parametrize("name", ["server", "levels", "loaders", "levels.memory", "loaders.a", "conflicts.modules"])
def test_what_is_no_table_is_not_hidden_by_another_source(name: str, tmp_path: Path) -> None:
    overrides: dict[str, object] = {}
    inner = overrides
    for part in name.split("."):
        inner[part] = inner = {}  # as the command line gives it
    file = tmp_path / "settings.toml"
    file.write_text(f"{name} = 1")
    with pytest.raises(SettingsError) as error:
        load_settings(file, overrides=overrides, environ={})
    assert str(error.value) == f"setting {name} = 1: allowed are tables of settings"


def test_names_of_loaders_are_left_as_they_are(tmp_path: Path) -> None:
    toml = '[loaders.userTasks]\nkind = "python"\ntarget = "tasks:load"\n'
    assert list(load(toml, tmp_path=tmp_path).loaders) == ["userTasks"]


@pytest.mark.parametrize(
    ("text", "seconds"), [("250ms", 0.25), ("30s", 30), ("1.5h", 5400), ("1d", 86400), ("5m", 300), ("7", 7), (" 2 s ", 2)]
)
def test_durations(text: str, seconds: float) -> None:
    assert load(levels={"memory": {"ttl": text}}).levels.memory.ttl == seconds


@pytest.mark.parametrize(
    ("section", "name"),
    [
        ("auth", "leeway"),
        ("realtime", "renewal_notice"),
        ("realtime", "renewal_grace"),
        ("realtime", "drain_spread"),
        ("sites", "max_ahead"),
    ],
)
def test_some_durations_may_be_none(section: str, name: str) -> None:
    variable = f"CACHESVC_{section}__{name}".upper()
    assert getattr(getattr(load(env={variable: "0s"}), section), name) == 0.0
    for wrong in ("-1s", "-1", "soon", "nan"):
        assert f"{section}.{name}" in refused(env={variable: wrong})


@pytest.mark.parametrize(("text", "size"), [("64KiB", 65536), ("1MB", 10**6), ("1gib", 1 << 30), ("512", 512), ("3b", 3)])
def test_sizes(text: str, size: int) -> None:
    assert load(levels={"memory": {"max_bytes": text}}).levels.memory.max_bytes == size


@pytest.mark.parametrize(("text", "rate"), [("50KiB", 51_200.0), ("0", 0.0), ("51200", 51_200.0)])
def test_a_bandwidth_is_a_size_or_none(text: str, rate: float) -> None:
    assert load(sites={"bandwidth": text}).sites.bandwidth == rate


@pytest.mark.parametrize("text", ["status, assignee.id", '["status", "assignee.id"]'])
def test_lists_in_the_environment(text: str) -> None:
    settings = load(env={"CACHESVC_LEVELS__DATABASE__INDEXED_FIELDS": text})
    assert settings.levels.database.indexed_fields == ("status", "assignee.id")


def test_tables_in_the_environment() -> None:
    assert load(env={"CACHESVC_SERVER": '{"port": 5}', "CACHESVC_SERVER__WORKERS": "2"}).server.port == 5


def test_settings_survive_json() -> None:
    settings = load(env={"CACHESVC_LEVELS__DATABASE__INDEXED_FIELDS": "a"}, loaders={"m": {"kind": "python", "target": "a:b"}})
    assert Settings(**json.loads(json.dumps(settings.model_dump(mode="json")))) == settings


def test_naming_a_redis_replaces_the_embedded_one() -> None:
    redis = load(env={"CACHESVC_LEVELS__REDIS__URL": "redis://somewhere"}).levels.redis
    assert (redis.url, redis.embedded) == ("redis://somewhere", False)
    assert "either" in refused(levels={"redis": {"url": "redis://somewhere", "embedded": True}})


@pytest.mark.parametrize(
    ("url", "file"),
    [
        ("sqlite:a/b.db", "/data/a/b.db"),
        ("sqlite:///b.db", "/data/b.db"),
        ("sqlite:////b.db", "/b.db"),
        ("sqlite:/b.db", "/b.db"),
    ],
)
def test_a_relative_database_is_under_the_data_directory(url: str, file: str) -> None:
    settings = load(server={"data_dir": "/data"}, levels={"database": {"url": url}})
    assert settings.database_url == f"sqlite:///{file}"


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        ("SERVER__PORT", "99999", "whole numbers from 0 to 65535"),
        ("SERVER__PORT", "x", "whole numbers from 0 to 65535"),
        ("SERVER__PORT", "", "whole numbers from 0 to 65535"),
        ("SERVER__WORKERS", "0", "whole numbers from 1 to 64"),
        ("LEVELS__MEMORY__EVICTION_POLICY", "MRU", '"LRU", "FIFO" and "S3FIFO"'),
        ("LEVELS__MEMORY__ENABLED", "maybe", "true and false"),
        ("LEVELS__MEMORY__TTL", "5 parsecs", 'durations over 0 to 315360000 seconds: a number, or like "250ms"'),
        ("LEVELS__MEMORY__TTL", "0", "durations over 0 to 315360000 seconds"),
        ("LEVELS__MEMORY__TTL", "nan", "durations over 0 to 315360000 seconds"),
        ("LEVELS__MEMORY__TTL", "1000000000000", "durations over 0 to 315360000 seconds"),
        ("LEVELS__MEMORY__MAX_BYTES", "-1", "sizes over 0 bytes"),
        ("SERVER__MAX_VALUE_SIZE", "1GiB", "sizes over 0 to 67108864 bytes"),
        ("LEVELS__REDIS__TTL_JITTER", "nan", "numbers from 0 to 0.5"),
        ("LEVELS__REDIS__KEY_PREFIX", "a b", "texts that match ^[A-Za-z0-9_.:-]+$"),
        ("LEVELS__DATABASE__INDEXED_FIELDS", "a..b", "up to 64 names of JSON fields"),
        ("LEVELS__DATABASE__INDEXED_FIELDS", "status,cursor", "up to 64 names of JSON fields"),
        ("LEVELS__MEMORY", "x", "tables of settings"),
        ("SERVER", "x", "tables of settings"),
        ("LOADERS__TASKS__KIND", "cobol", '"http", "sql" and "python"'),
    ],
)
def test_a_bad_value_is_named_with_what_is_allowed(name: str, value: str, allowed: str) -> None:
    said = refused(env={f"CACHESVC_{name}": value})
    assert said.startswith(f"setting {name.lower().replace('__', '.')} = ")
    assert f"allowed are {allowed}" in said


@pytest.mark.parametrize(
    ("toml", "said"),
    [
        ("server = {port = true}", "server.port = True: allowed are whole numbers from 0 to 65535"),
        ("server = {port = 1.0}", "server.port = 1.0: allowed are whole numbers from 0 to 65535"),
        ("server = {max_header_bytes = true}", "server.max_header_bytes = True: allowed are sizes from 1024 to 1048576 bytes"),
        ("server = {header_timeout = true}", "server.header_timeout = True: allowed are durations over 0"),
        ("levels.memory = {maxSize = false}", "levels.memory.max_size = False: allowed are whole numbers from 1"),
    ],
)
def test_what_is_near_a_number_is_none(toml: str, said: str, tmp_path: Path) -> None:
    assert said in refused(toml, tmp_path=tmp_path)


@pytest.mark.parametrize(
    ("file", "said"),
    [
        (
            '[levels.database]\nurl = "sqlite:x.db"',
            "levels.redis.url = not given: give levels.redis.url, or levels.redis.embedded",
        ),
        ("[levels.redis]\nenabled = false", "levels.database.url = not given: give levels.database.url, or"),
        (
            '[levels]\nredis.enabled = false\ndatabase.enabled = false\n[loaders.a]\nkind = "python"',
            "loaders.a.target = not given: is needed by kind",
        ),
    ],
)
def test_what_is_not_given_is_said_to_be(file: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "cachesvc.toml").write_text(file)
    with pytest.raises(SettingsError) as caught:
        load_settings(tmp_path / "cachesvc.toml", environ={})
    assert said in str(caught.value)


@pytest.mark.parametrize(
    "url",
    ["redis://h/notanumber", "redis://h/1/2", "rediss://h/-1", "redis://h?db=x", "unix:///a/b?db=x", "redis+cluster://h/a"],
)
def test_a_database_of_redis_is_a_number(url: str) -> None:
    assert "names its database, if any, by a number" in refused(levels={"redis": {"url": url}})


@pytest.mark.parametrize(
    "url",
    ["redis+sentinel://h/main", "rediss+sentinel://u:p@h:1,[::1]:26379,i/my.master/3?sentinel_password=x&ssl_ca_certs=/f"],
)
def test_a_master_may_be_found_by_sentinels(url: str) -> None:
    assert load_settings(overrides={"levels": {"redis": {"url": url}}}, environ={}).levels.redis.url == url


@pytest.mark.parametrize("url", ["redis://h/", "redis://h:1/3", "redis://h/?db=3", "unix:///a/b?db=3", "redis+cluster://h"])
def test_a_url_of_redis(url: str) -> None:
    assert load(levels={"redis": {"url": url}}).levels.redis.url == url


@pytest.mark.parametrize(
    ("variable", "meant"),
    [
        ("CACHESVC_SERVER_PORT", "CACHESVC_SERVER__PORT"),
        ("CACHESVC_SEVER__PORT", "CACHESVC_SERVER__PORT"),
        ("CACHESVC_LEVELS__MEMORY__MAXSIZE", "CACHESVC_LEVELS__MEMORY__MAX_SIZE"),
        ("cachesvc_servr__port", "CACHESVC_SERVER__PORT"),
    ],
)
def test_a_mistyped_variable_is_refused_with_a_suggestion(variable: str, meant: str) -> None:
    assert refused(env={variable: "1"}) == f"setting {variable} = '1': is not a setting; did you mean {meant}?"


def test_other_variables_are_none_of_its_business() -> None:
    load(env={"CACHESVC_URL": "http://somewhere", "CACHESVC_TOKEN": "t", "CACHESVCS": "x", "PATH": "/bin"})


def test_an_unknown_setting_of_the_file_is_refused_with_a_suggestion(tmp_path: Path) -> None:
    said = refused("server = {prot = 1}", tmp_path=tmp_path)
    assert said == "setting server.prot = 1: is not a setting; did you mean server.port?"
    assert "did you mean server?" in refused("[sever]\nport = 1", tmp_path=tmp_path)


@pytest.mark.parametrize(
    ("toml", "meant"),
    [
        ("loaders.a.foo = 1", ""),
        ('loaders.a = {kind = "http", soft_timout = "1s"}', "loaders.a.soft_timeout"),
        ('conflicts.modules.task.strategi = "x"', "conflicts.modules.task.strategy"),
        ("levels.memorie.ttl = 1", "levels.memory"),
        ("levels.redis_url = 1", "levels.redis.url"),
        ("server.nothing_like_it = 1", ""),
    ],
)
def test_a_suggestion_is_of_the_table_that_was_meant(toml: str, meant: str, tmp_path: Path) -> None:
    _, _, hint = refused(toml, tmp_path=tmp_path).partition("is not a setting")
    assert hint == (f"; did you mean {meant}?" if meant else "")


@pytest.mark.parametrize(
    ("toml", "said"),
    [("server = {", "is not TOML"), ("[server]\nport = 1\nport = 2", "is not TOML"), ("x = 1", "is not a setting")],
)
def test_a_file_that_is_none(toml: str, said: str, tmp_path: Path) -> None:
    assert said in refused(toml, tmp_path=tmp_path)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="cannot be read: No such file or directory"):
        load_settings(tmp_path / "none.toml", environ={})


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        ({"server": {"host": "0.0.0.0"}}, "loopback"),
        ({"server": {"host": "cache.example"}}, "loopback"),
        ({"auth": {"mode": "jwt"}}, "auth.algorithms"),
        ({"levels": {name: {"enabled": False} for name in ("memory", "redis", "database")}}, "at least one level"),
        ({"server": {"workers": 2}, "levels": {"redis": {"enabled": False}, "database": {"enabled": False}}}, "must be 1"),
        (
            {"levels": {"redis": {"url": "redis+cluster://h"}, "database": {"enabled": False}}},
            "a Cluster cannot be the authority",
        ),
        ({"levels": {"redis": {"url": "http://h"}}}, "starts with redis://"),
        ({"levels": {"redis": {"url": "redis://h:port"}}}, "names a host"),
        (
            {"levels": {"redis": {"url": "redis+sentinel://h/m"}, "database": {"enabled": False}}},
            "a replica that is promoted may lack",
        ),
        ({"levels": {"redis": {"url": "redis+sentinel://h:26379"}}}, "names the master that the Sentinels watch"),
        ({"levels": {"redis": {"url": "redis+sentinel://h:26379/m/x"}}}, "names the master that the Sentinels watch"),
        ({"levels": {"redis": {"url": "redis+sentinel://h,,i/m"}}}, "names each Sentinel"),
        ({"levels": {"redis": {"url": "redis+sentinel://h:1,i:99999/m"}}}, "names each Sentinel"),
        ({"levels": {"database": {"url": "postgresql://h:5432,/d"}}}, "names a host"),
        ({"levels": {"database": {"url": "postgresql://h:5432,i:x/d"}}}, "names a host"),
        ({"levels": {"database": {"url": "mysql://h"}}}, "starts with sqlite: or postgresql://"),
        ({"levels": {"database": {"url": "postgresql:///d"}}}, "names a host"),
        ({"levels": {"database": {"url": "sqlite::memory:"}}}, "names a file"),
        ({"levels": {"database": {"url": "sqlite://"}}}, "names a file"),
    ],
)
def test_what_does_not_fit_together_is_refused(overrides: dict[str, Any], said: str) -> None:
    assert said in refused(**overrides)


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "::1", "[::1]", "127.1.2.3"])
def test_loopback_needs_no_tokens(host: str) -> None:
    load(server={"host": host})


@pytest.mark.parametrize(
    "url",
    [
        "redi://user:secret@h:1/0",
        "redis://user:secret@h:99999/0?x=1",
        "redis://user:sec/ret@secret@h:port",
        "user:secret@h",
        "redi://h/0?password=secret",
        ":secret@h",
        "redis://h:port/\n:secret@",
    ],
)
@pytest.mark.parametrize("level", ["redis", "database"])
def test_no_password_is_shown(url: str, level: str, tmp_path: Path) -> None:
    for said in (
        refused(levels={level: {"url": url}}),
        refused(env={f"CACHESVC_LEVELS__{level.upper()}__URI": url}),
        refused(levels={level: {"uri": url}}),
        refused(levels={f"{level}s": {"url": url}}),
        refused(levels={level: url}),
    ):
        assert "secret" not in said


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("AUTH__SECRET", "hunter2"),
        ("LEVELS__REDIS__PASSWORD", "hunter2"),
        ("LEVELS__REDIS__PASWORD", "hunter2"),
        ("LEVELS__DATABASE__PWD", "hunter2"),
        ("SITES__PEERS", '{"oslo": {"secret": "hunter2",}}'),
        ("AUTH", '{"secrets": ["hunter2",]}'),
    ],
)
def test_no_secret_of_a_variable_that_is_none_is_shown(variable: str, value: str) -> None:
    said = refused(env={f"CACHESVC_{variable}": value})
    assert variable.lower().replace("__", ".") in said.lower().replace("__", ".")
    assert "hunter2" not in said
