"""A node that was killed is forgotten, and what it did for all is done by another: heartbeats and leases on real processes."""

from __future__ import annotations

from pathlib import Path

from cachesvc.settings.sections import Cluster
from tests.e2e.takeover import taken_over


async def test_a_killed_node_is_forgotten_and_its_duties_are_taken_over(tmp_path: Path, postgres_url: str) -> None:
    soon = {"cluster__heartbeat": "0.2", "cluster__lease": "1"}
    found = await taken_over(tmp_path, postgres_url, **soon)
    assert {"agenda", "sweep", "retire", "jobs"} <= found.duties


def test_by_default_a_dead_node_is_forgotten_within_5_s_and_its_duties_are_taken_over_within_10() -> None:
    cluster = Cluster()
    assert cluster.gone_after <= 5.0
    assert cluster.lease + cluster.lease / 4 + cluster.heartbeat < 10.0
