from __future__ import annotations

import pytest

from cachesvc.web.outlet import Outlet, Traffic
from cachesvc.web.text_frames import framed


@pytest.fixture
def written() -> list[bytes]:
    return []


@pytest.fixture
def outlet(written: list[bytes]) -> Outlet:
    return Outlet(written.append, Traffic())


def test_what_goes_to_many_is_framed_once(outlet: Outlet, written: list[bytes]) -> None:
    other = Outlet(written.append, outlet.traffic)
    for text in (b"a" * 300, b"b" * 300, b""):
        assert outlet.write(text)
        assert other.write(text)
        assert written[-1] is written[-2]
        assert written[-1] == framed(text)
    assert (outlet.traffic.sent, outlet.traffic.sent_bytes) == (6, 1_200)


def test_nothing_is_written_to_who_takes_nothing(outlet: Outlet, written: list[bytes]) -> None:
    outlet.paused = True
    assert not outlet.write(b"a")
    assert (written, outlet.traffic.sent) == ([], 0)
    outlet.paused = False
    assert outlet.write(b"a")
    assert written == [framed(b"a")]


def test_what_is_corked_goes_out_together_and_in_order(outlet: Outlet, written: list[bytes]) -> None:
    texts = [b"%d" % number for number in range(100)]
    outlet.cork()
    for text in texts:
        outlet.write(text)
    assert len(written) == 1, "no more than 64 are kept"
    outlet.uncork()
    assert b"".join(written) == b"".join(map(framed, texts))
    assert len(written) == 2
    outlet.uncork()
    outlet.write(b"alone")
    assert written[2:] == [framed(b"alone")]


def test_a_long_text_is_not_kept(outlet: Outlet, written: list[bytes]) -> None:
    outlet.cork()
    outlet.write(b"a")
    outlet.write(b"b" * 5_000)
    assert written == [framed(b"a") + framed(b"b" * 5_000)]
