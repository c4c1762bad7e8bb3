"""Policies: windows of time, and what is never stale."""

from __future__ import annotations

from cachesvc.model.entry import JSON, Entry, content_hash, tombstone
from cachesvc.model.invalidation import Patterns, in_force
from cachesvc.model.keys import Key
from cachesvc.model.policy import Policy, absent
from cachesvc.model.position import Seq, Version

A = Key("a:1")
ENTRY = Entry(A, Version(5), b"1", JSON, 900.0, 1_000.0, 1_100.0, content_hash(JSON, b"1"), source="loader")


def test_what_is_past_its_life_is_served_within_its_window_only() -> None:
    policy = Policy(stale_while_revalidate=10.0, stale_if_error=60.0)
    assert policy.stale == 60.0
    assert [policy.revalidates(ENTRY, now) for now in (1_099.0, 1_109.9, 1_110.0)] == [True, True, False]
    assert [policy.tolerates(ENTRY, now) for now in (1_110.0, 1_159.9, 1_160.0)] == [True, True, False]
    assert not Policy().tolerates(ENTRY, 1_050.0)


def test_what_is_deleted_is_never_stale() -> None:
    policy = Policy(stale_while_revalidate=10.0, stale_if_error=10.0)
    gone = tombstone(A, Version(6), now=1_000.0, keep=1_000.0)
    assert not policy.revalidates(gone, 1_000.0)
    assert not policy.tolerates(gone, 1_000.0)


def test_an_entry_is_due_in_the_last_share_of_its_life() -> None:
    policy = Policy(refresh_ahead=0.2)
    assert policy.ahead(ENTRY) == 20.0
    assert [policy.due(ENTRY, now) for now in (1_079.0, 1_080.0)] == [False, True]
    assert not policy.due(ENTRY._replace(expires_at=None), 1e12)
    assert not Policy().due(ENTRY, 1_200.0)


def test_an_absence_is_what_a_load_left_and_nothing_else() -> None:
    policy = Policy(negative_ttl=30.0)
    nothing = tombstone(A, Version(6), now=1_000.0, keep=300.0)._replace(source="loader")
    assert [policy.missing(nothing, now) for now in (1_029.0, 1_030.0)] == [True, False]
    assert not Policy().missing(nothing, 1_000.0)
    assert not absent(tombstone(A, Version(6), now=1_000.0, keep=300.0))
    hidden = Patterns([in_force(Seq(7), "a:*")]).hide(ENTRY)
    assert hidden.deleted
    assert not absent(hidden)
