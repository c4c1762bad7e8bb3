"""Settings of loaders: what all have, what one says otherwise, and what does not fit its kind."""

from __future__ import annotations

from typing import Any

import pytest

from cachesvc.errors import SettingsError
from cachesvc.settings import Settings, load_settings, terms_of

HTTP = {"kind": "http", "url": "http://h/{id}"}
SQL = {"kind": "sql", "url": "sqlite:///x", "query": "SELECT 1 WHERE :id"}


def load(**loaders: Any) -> Settings:
    off = {"levels": {"redis": {"enabled": False}, "database": {"enabled": False}}}
    return load_settings(overrides={**off, "loading": {"negative_ttl": "30s", "ttl": 60}, "loaders": loaders}, environ={})


def refused(**settings: Any) -> str:
    with pytest.raises(SettingsError) as caught:
        load(task=settings)
    said = str(caught.value)
    assert "\n" not in said
    return said


def test_one_loader_says_otherwise_than_all_also_after_a_way_through_json() -> None:
    settings = load(task={**HTTP, "negative_ttl": 0, "stale_if_error": "1h"}, user=SQL)
    for seen in (settings, Settings(**settings.model_dump(mode="json"))):
        task, user = (terms_of(seen.loaders[name], seen.loading) for name in ("task", "user"))
        assert (task.negative_ttl, task.stale_if_error, task.ttl) == (0, 3_600, 60)
        assert (user.negative_ttl, user.stale_if_error, user.ttl) == (30, 0, 60)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"kind": "http"}, "loaders.task.url = not given: is needed by kind"),
        ({"kind": "sql", "url": "sqlite:///x"}, "loaders.task.query = not given"),
        ({**HTTP, "query": "SELECT :id"}, "loaders.task.query = 'given': is of kind = \"sql\" only"),
        ({**SQL, "use_max_age": True}, 'is of kind = "http" only'),
        ({**HTTP, "url": "ftp://h/{id}"}, "starts with http://"),
        ({**HTTP, "url": "http://{id}/x"}, "not in its host"),
        ({**HTTP, "url": "http://h/{name}"}, "names the key by {key}"),
        ({**HTTP, "url": "http://h/{id!r}"}, "names the key by {key}"),
        ({**HTTP, "url": "http://h/{id"}, "names the key by {key}"),
        ({**HTTP, "url": "http://h/all"}, "at least once"),
        ({**HTTP, "url": "http://h:0/{id}"}, "a host"),
        ({**HTTP, "headers": {"A B": "x"}}, "names and values of HTTP headers"),
        ({**SQL, "query": "SELECT 1"}, "has one of the parameters"),
        ({**SQL, "query": "SELECT :id, :other"}, "has one of the parameters"),
        ({**SQL, "query": "SELECT :id, :key"}, "has one of the parameters"),
        ({**HTTP, "hard_timeout": 0}, "loaders.task.hard_timeout = 0: allowed are durations over 0"),
        ({**HTTP, "concurrency": 0}, "loaders.task.concurrency = 0: allowed are whole numbers from 1 to 1000"),
        ({**HTTP, "ttl_jitter": 2}, "loaders.task.ttl_jitter = 2: allowed are numbers from 0 to 0.9"),
        ({**HTTP, "timeout": 5}, "is not a setting"),
    ],
)
def test_what_does_not_fit_is_refused_by_its_name(settings: dict[str, Any], said: str) -> None:
    assert said in refused(**settings)


@pytest.mark.parametrize(
    "settings",
    [
        {**HTTP, "url": "http://user:secret@h:0/{id}"},
        {**HTTP, "headers": {"Authorization": 5}},
        {**HTTP, "headers": {"Authorization": "secret\nx"}},
        {**SQL, "url": "postgresql://u:secret@h/d", "query": "SELECT 1"},
    ],
)
def test_no_secret_is_shown(settings: dict[str, Any]) -> None:
    assert "secret" not in refused(**settings)
