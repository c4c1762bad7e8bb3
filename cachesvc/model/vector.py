"""Vectors: which writes of which sites are known (version vectors, Parker et al. 1983). In the order of the sites' names."""

from __future__ import annotations

from cachesvc.model.entry import Origin, Vector


def knows(vector: Vector, origin: Origin) -> bool:
    return any(site == origin.site and sequence >= origin.sequence for site, sequence in vector)


def knows_all(vector: Vector, other: Vector) -> bool:
    known = dict(vector)
    return all(known.get(site, 0) >= sequence for site, sequence in other)


def joined(vector: Vector, other: Vector) -> Vector:
    """All that either knows of."""
    known = dict(vector)
    for site, sequence in other:
        known[site] = max(sequence, known.get(site, 0))
    return tuple(sorted(known.items()))
