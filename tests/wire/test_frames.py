"""Frames: every type of the specification has a model and a golden frame that fits it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cachesvc.errors import InvalidInput
from cachesvc.protocol.api import parse
from cachesvc.protocol.frames import FROM_CLIENTS, FROM_NODES, type_of
from cachesvc.protocol.messages import FROM_SERVER
from tests.wire import golden_frames

CLIENT = {**FROM_CLIENTS, **FROM_NODES}
SPECIFIED = {
    *("auth", "subscribe", "unsubscribe", "ping", "recovery:request", "authz:check", "cache:get", "cache:update"),
    *("cache:invalidate", "cache:warm", "batch:update", "conflict:resolve", "publish", "cache:sync"),
}


def test_every_type_has_a_model() -> None:
    assert set(CLIENT) == SPECIFIED


@pytest.mark.parametrize("kind", CLIENT)
def test_a_golden_frame_fits_its_model(kind: str) -> None:
    frame = golden_frames.read(kind, "client")
    exact = {k: v for k, v in frame.items() if kind not in ("cache:update", "publish", "conflict:resolve") or k != "payload"}
    if "payload" in exact or kind == "auth":
        model = CLIENT[kind]
        assert type_of(model) == kind
        assert parse(model, {**frame, "unheard": [1], "timestamp": None, "requestId": None}).request_id is None


@pytest.mark.parametrize("kind", FROM_SERVER)
def test_what_the_server_says_fits_its_model(kind: str) -> None:
    frame = golden_frames.read(kind, "server")
    assert FROM_SERVER[kind].model_validate(frame).timestamp == frame["timestamp"]


@pytest.mark.parametrize("kind", sorted(SPECIFIED - {"auth", "ping"}))
def test_a_payload_is_needed(kind: str) -> None:
    with pytest.raises(InvalidInput, match=r"^payload: is missing"):
        parse(CLIENT[kind], {"type": kind})


members = st.dictionaries(st.text(max_size=5), st.integers() | st.text(max_size=3) | st.none())


@given(st.sampled_from(sorted(SPECIFIED)), members)
def test_what_does_not_fit_is_refused_by_name(kind: str, payload: dict[str, object]) -> None:
    wrong = None
    try:
        parse(CLIENT[kind], {"type": kind, "payload": payload, "token": 1})
    except InvalidInput as refused:
        wrong = refused
    assert wrong is None or wrong.field.partition(".")[0] in ("payload", "token")
