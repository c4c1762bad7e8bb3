"""What a loader says of a value is checked as what a client says is: so it can be told, snapshot and sent to other sites."""

from __future__ import annotations

import pytest

from cachesvc.errors import Unavailable
from cachesvc.loaders.checked import checked, media_type
from cachesvc.ports import Loaded
from cachesvc.protocol.api import MAX_NAMES


@pytest.mark.parametrize("kind", ["application/problem+json", "application/Task+JSON; v=1"])
def test_a_value_that_says_it_is_json_is_json(kind: str) -> None:
    assert checked("x", Loaded(b"[1]", kind), most=9) == Loaded(b"[1]", kind)
    with pytest.raises(Unavailable, match=r"^loader x: value: is not JSON"):  # it would break each answer that it is told in
        checked("x", Loaded(b"<p>", kind), most=9)


@pytest.mark.parametrize("kind", ["", "text", "text/html, text/plain", "text/html; charset", "text/html;", "text/\x00"])
def test_what_is_no_media_type_is_refused(kind: str) -> None:
    with pytest.raises(Unavailable, match=r"^loader x: Content-Type: is not a media type"):
        checked("x", Loaded(b"1", kind), most=9)


def test_a_media_type_is_kept_plainly() -> None:
    assert media_type(" text/html; charset=utf-8; ") == "text/html; charset=utf-8"
    assert media_type("application/JSON;charset=latin-1") == "application/json"
    assert checked("x", Loaded(b"1", 'application/json; charset="UTF-8"'), most=9) == Loaded(b"1", "application/json")


def test_names_are_as_many_as_a_client_may_give_and_each_is_kept_once() -> None:
    names = tuple(f"t{number}" for number in range(MAX_NAMES))
    assert checked("x", Loaded(b"1", "a/b", tags=(*names[1:], "t1"), parents=names), most=9).tags == names[1:]
    with pytest.raises(Unavailable, match=r"^loader x: tags: has 129 items"):
        checked("x", Loaded(b"1", "a/b", tags=(*names, "more")), most=9)
