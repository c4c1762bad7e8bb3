"""Metrics: every number has one, Prometheus can read them, and what the documents name is there."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families as parsed

from cachesvc.model.change import Draft, Operation
from cachesvc.model.keys import Key
from cachesvc.node.building import opened
from cachesvc.node.node import Node
from cachesvc.observability.catalogue import FAMILIES, find
from cachesvc.observability.metrics import Metrics, numbers
from cachesvc.realtime.rates import RateLimits, Rates
from cachesvc.settings.whole import MAX_PEERS
from cachesvc.sites.report import PeerCounts
from cachesvc.web.admission import Admission
from cachesvc.web.app import create_app
from cachesvc.web.service import Service
from tests.node.conftest import settings

UNITS = ("seconds", "bytes")
WATCH = Path(__file__).parents[2] / "docs" / "how-to" / "watch.md"


def service_of(node: Node) -> Service:
    return Service(
        node.cache,
        node.feed,
        node,
        node.clock,
        node.jobs,
        admission=Admission(node.clock),
        rates=Rates(RateLimits({}), node.clock),
    )


@pytest.fixture
async def text(tmp_path: Path, valkey_url: str) -> str:
    """What a node with every tier tells, after some use."""
    levels = {"redis": {"url": valkey_url}, "database": {"url": "sqlite:a.db"}}
    loader = {"target": "tests.observability.test_metrics:load", "kind": "python"}
    sites = {"peers": {"away": {"url": "http://127.0.0.1:1", "secret": "a secret of thirty-two bytes or more"}}}
    async with opened(settings(tmp_path, **levels, loaders={"loaded": loader}, sites=sites)) as node:
        await node.cache.write_many([Draft(Operation.SET, Key(f"task:{n}"), b"1") for n in range(20)])
        await node.cache.read(Key("loaded:1"))
        await node.audit(["memory", "redis"], None).done.wait()
        transport = httpx.ASGITransport(create_app(service_of(node)))
        async with httpx.AsyncClient(transport=transport, base_url="http://node") as http:
            for path in ("/v1/cache/task:1", "/v1/cache/task:99", "/v1/nodes", "/healthz"):
                await http.get(path)
            stats = (await http.get("/v1/stats")).json()
            unknown = [".".join(path) for path, _ in numbers(stats) if find(path) is None]
            assert not unknown, f"give them a metric in cachesvc/observability/catalogue.py: {unknown}"
            return (await http.get("/metrics")).text


async def load(keys: Sequence[Key]) -> Mapping[Key, object]:
    return dict.fromkeys(keys, 1)


async def test_what_a_node_tells(text: str) -> None:
    check_that_prometheus_reads_them_and_every_family_is_there(text)
    check_that_names_are_as_prometheus_has_them(text)
    check_that_no_name_and_no_label_is_a_clients(text)
    check_that_the_page_names_what_there_is(text)


def check_that_prometheus_reads_them_and_every_family_is_there(text: str) -> None:
    found = {family.name: family for family in parsed(text)}
    assert all(family.documentation for family in found.values())
    for family in FAMILIES:
        if family.name in found:
            assert found[family.name].type == family.kind
            for sample in found[family.name].samples:
                assert set(sample.labels) == set(family.labels)
    told = {name for name, family in found.items() if family.samples}
    missing = {family.name for family in FAMILIES} - told
    # this node closed none
    assert missing == {"cachesvc_ws_connections_closed"}
    assert found["cachesvc_visibility_seconds"].type == "histogram"
    buckets = [s for s in found["cachesvc_visibility_seconds"].samples if s.labels.get("origin") == "own" and "le" in s.labels]
    assert [s.value for s in buckets] == sorted(s.value for s in buckets)
    assert buckets[-1].labels["le"] == "+Inf"
    assert buckets[-1].value == 21.0


def check_that_names_are_as_prometheus_has_them(text: str) -> None:
    samples = 0
    for family in parsed(text):
        samples += len(family.samples)
        assert re.fullmatch(r"cachesvc_[a-z0-9]+(_[a-z0-9]+)*", family.name)
        for sample in family.samples:
            if family.type == "counter":
                assert sample.name.endswith(("_total", "_created"))
            assert not re.search(r"_(ms|kb|mb|millis\w*)(_|$)", sample.name)
    assert samples < 1_000


def check_that_no_name_and_no_label_is_a_clients(text: str) -> None:
    for family in parsed(text):
        for sample in family.samples:
            assert "task:" not in str(sample.labels)


def test_the_catalogue_says_each_thing_once() -> None:
    assert len({family.name for family in FAMILIES}) == len({family.path for family in FAMILIES}) == len(FAMILIES)
    for family in FAMILIES:
        assert len(family.labels) == family.path.count("*")
        assert find(family.path) == (family, ("*",) * len(family.labels))


def test_what_is_not_in_the_catalogue_is_left_out_and_the_rest_is_bounded() -> None:
    stats = {"tiers": {f"t{n}": {"hits": n} for n in range(20_001)}, "odd": 1}
    text = Metrics().render(stats, {}).decode()
    assert "odd" not in text
    assert text.count("cachesvc_tier_hits_total{") == 20_000


def test_the_most_sites_hide_nothing() -> None:
    stats = {"sites": {"peers": {f"site{n}": asdict(PeerCounts()) for n in range(MAX_PEERS)}}, "web": {"shed": 7}}
    text = Metrics().render(stats, {}).decode()
    assert text.count("cachesvc_site_connected{") == MAX_PEERS
    assert "cachesvc_http_shed_total 7.0" in text


def check_that_the_page_names_what_there_is(text: str) -> None:
    families = list(parsed(text))
    there = {sample.name for family in families for sample in family.samples}
    there |= {family.name for family in families if family.type == "histogram"}
    named = set(re.findall(r"cachesvc_\w+", WATCH.read_text()))
    assert len(named) > 10
    assert named - there == set()
