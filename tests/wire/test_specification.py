"""Every golden frame is a message as the specification writes it down."""

from __future__ import annotations

import pytest

from tests.wire import golden_frames, specification


@pytest.mark.parametrize("kind", specification.PAYLOADS)
def test_a_golden_frame_is_of_the_specification(kind: str) -> None:
    frame = golden_frames.read(kind, "server")
    assert specification.wrong(frame) == []


@pytest.mark.parametrize("member", ["payload", "timestamp"])
def test_what_is_missing_is_found(member: str) -> None:
    frame = golden_frames.read("task:update", "server")
    frame["payload"] = {"action": "moved", "task": 1}
    assert specification.wrong(frame) == [
        "task:update: payload.action is 'moved', not one of ('created', 'updated', 'deleted')",
        "task:update: payload.source is missing",
    ]
