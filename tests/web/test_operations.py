"""Stats, nodes, health, metrics and the documentation."""

from __future__ import annotations

import re
from typing import Any

import httpx
import jsonschema
import pytest

from cachesvc.web.app import data_endpoints
from cachesvc.web.openapi import DATA
from tests.web.site import Site


async def test_stats_and_nodes(http: httpx.AsyncClient) -> None:
    assert (await http.get("/v1/stats")).json()["tiers"]["memory"]["hits"] == 3
    assert (await http.get("/v1/nodes")).json() == {"nodes": [{"node": "n1", "lag": 0}]}


@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_unknown_parameters_are_refused_but_of_probes(http: httpx.AsyncClient, method: str) -> None:
    for path in ("/v1/stats", "/v1/nodes"):
        answer = await http.request(method, f"{path}?x=1")
        assert answer.status_code == 422
        if method == "GET":
            assert answer.json()["detail"] == "x: is not a parameter here; allowed: none"
    for path in ("/healthz", "/readyz", "/metrics"):
        assert (await http.request(method, f"{path}?x=1")).status_code == 200


async def test_health_and_readiness(site: Site, http: httpx.AsyncClient) -> None:
    assert (await http.get("/healthz")).status_code == 200
    assert (await http.get("/readyz")).json() == {"status": "ready", "tiers": {"memory": "ok", "database": "ok"}}
    site.node.tiers["redis"] = "passed by"
    assert (await http.get("/readyz")).status_code == 200
    site.node.tiers["database"], site.node.ready = "did not answer", False
    answer = await http.get("/readyz")
    assert (answer.status_code, answer.json()["tiers"]["database"]) == (503, "did not answer")
    assert answer.json()["status"] == "not ready"
    assert answer.headers["retry-after"] == "1"
    site.node.ready = True
    site.service.closing.set()
    assert (await http.get("/readyz")).status_code == 503
    assert (await http.get("/healthz")).status_code == 200


async def test_metrics(http: httpx.AsyncClient) -> None:
    for i in range(20):
        await http.get(f"/v1/cache/secret{i}")
        await http.get(f"/nowhere/secret{i}")
    await http.request("BREW", "/v1/keys")
    answer = await http.get("/metrics")
    text = answer.text
    assert answer.headers["content-type"].startswith("text/plain; version=")
    assert 'cachesvc_http_requests_total{method="GET",route="/v1/cache/{key}",status="4xx"} 20.0' in text
    assert 'cachesvc_http_requests_total{method="GET",route="other",status="4xx"} 20.0' in text
    assert 'cachesvc_http_requests_total{method="other",route="/v1/keys",status="4xx"} 1.0' in text
    assert 'cachesvc_http_request_seconds_count{method="GET",route="/v1/cache/{key}"} 20.0' in text
    assert 'cachesvc_tier_hits_total{tier="memory"} 3.0' in text
    assert 'cachesvc_tier_latency_seconds{percentile="p99",tier="memory"} 0.5' in text
    assert "cachesvc_log_applied_sequence 7.0" in text
    assert 'cachesvc_visibility_seconds_bucket{le="0.0025",origin="others"} 0.0' in text
    assert 'cachesvc_visibility_seconds_bucket{le="0.005",origin="others"} 4.0' in text
    assert 'cachesvc_http_streams{of="changes"} 0.0' in text
    assert "secret" not in text
    assert "BREW" not in text


async def test_metrics_name_the_operations(http: httpx.AsyncClient) -> None:
    await http.get("/healthz")
    assert 'route="/healthz",status="2xx"} 1.0' in (await http.get("/metrics")).text


async def test_the_document_covers_every_route(site: Site, http: httpx.AsyncClient) -> None:
    document = (await http.get("/openapi.json")).json()
    for path, endpoints in data_endpoints(site.service).items():
        methods = {method.lower() for method in endpoints}
        assert methods == set(DATA[path]) - {"head"}
        assert methods <= set(document["paths"][path])
    for path in ("/v1/stats", "/v1/nodes", "/healthz", "/readyz", "/metrics"):
        assert "get" in document["paths"][path]
    names = set(document["components"]["schemas"])
    references = set(re.findall(r"#/components/schemas/(\w+)", str(document)))
    assert {"Update", "Batch", "Problem", "KeyPage"} <= references <= names
    assert document["info"] == document["info"] | {"title": "cachesvc", "version": "1.2.3"}


ASKED: list[tuple[str, str, str, dict[str, Any]]] = [
    ("/v1/cache/{key}", "HEAD", "/v1/cache/%zz", {}),
    ("/v1/cache/{key}", "HEAD", "/v1/cache/a", {"headers": {"If-Match": "x"}}),
    ("/v1/cache/{key}", "HEAD", "/v1/cache/a", {"headers": {"Cache-Control": "only-if-cached"}}),
    ("/v1/cache/{key}", "DELETE", "/v1/cache/a", {}),
    ("/v1/cache/{key}", "POST", "/v1/cache/a", {"json": {"operation": "delete"}}),
    ("/v1/batch", "POST", "/v1/batch", {"json": {"operations": [{"operation": "get", "key": "a"}, 1]}}),
    ("/v1/batch", "POST", "/v1/batch", {"json": {"operations": [{"operation": "get", "key": "a"}] * 1_001}}),
    *((path, "GET", f"{path}?x", {}) for path in ("/v1/stats", "/v1/nodes", "/metrics", "/healthz")),
]


@pytest.mark.parametrize(("path", "method", "target", "more"), ASKED)
async def test_what_is_answered_is_in_the_document(
    http: httpx.AsyncClient, path: str, method: str, target: str, more: dict[str, Any]
) -> None:
    document = (await http.get("/openapi.json")).json()
    for schema in document["components"]["schemas"].values():
        schema.setdefault("additionalProperties", False)  # a member that is not documented is none
    answer = await http.request(method, target, **more)
    contents = document["paths"][path][method.lower()]["responses"][str(answer.status_code)].get("content", {})
    content = contents[answer.headers["content-type"].partition(";")[0]] if answer.content else {}
    if answer.headers.get("content-type", "").endswith("json") and answer.content:
        jsonschema.validate(answer.json(), {**content["schema"], "components": document["components"]})


async def test_the_document_says_who_may_ask(http: httpx.AsyncClient) -> None:
    document = (await http.get("/openapi.json")).json()
    assert document["security"] == [{"bearer": []}, {}]
    assert document["paths"]["/healthz"]["get"]["security"] == []
    assert {"401", "403", "429", "default"} <= set(document["paths"]["/v1/cache/{key}"]["get"]["responses"])


async def test_the_page_loads_nothing_from_anywhere(http: httpx.AsyncClient) -> None:
    answer = await http.get("/docs")
    assert answer.headers["content-type"].startswith("text/html")
    assert "/v1/cache/{key}" in answer.text
    assert not re.search(r"(src|href)=\"?(https?:)?//", answer.text)


@pytest.mark.parametrize("path", ["/healthz", "/v1/cache/a", "/nowhere"])
async def test_every_answer_has_an_id_of_its_own(http: httpx.AsyncClient, path: str) -> None:
    first, second = await http.get(path), await http.get(path)
    assert first.headers["x-request-id"] != second.headers["x-request-id"]
