from __future__ import annotations

from cachesvc.realtime.stream import Remembered, Sent
from cachesvc.realtime.told import Told


def told(version: int) -> Told:
    return Told("cache:update", {"key": "a"}, version=version, epoch=7, at=0.0)


def test_what_went_out_is_remembered_with_its_number_and_its_position() -> None:
    remembered = Remembered(100, 1 << 20)
    sent = [Sent(1, told(10), 10), Sent(2, told(11), 9), Sent(3, told(12), 15), Sent(4, told(16), 16)]
    for one in sent:
        remembered.add(*one)
    assert list(remembered) == sent


def test_the_oldest_are_forgotten_whole() -> None:
    remembered = Remembered(3, 1 << 20)
    sent = [Sent(seq, told(seq), seq - seq % 2) for seq in range(1, 11)]
    for one in sent:
        remembered.add(*one)
    assert list(remembered) == sent[-3:]
    assert remembered._positions == {9: 8}
    assert remembered.size == sum(one.told.size for one in sent[-3:])


def test_it_holds_so_many_bytes_and_no_more() -> None:
    size = told(1).size
    remembered = Remembered(100, 2 * size + 1)
    for seq in (1, 2, 3):
        remembered.add(seq, told(seq), seq)
    assert [one.seq for one in remembered] == [2, 3]
