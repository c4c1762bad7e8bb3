"""What the nodes of a site share beside the entries."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple, Protocol

from cachesvc.model.position import Position
from cachesvc.ports.leases import Leases

NODES_KEPT: Final = 86_400.0  # seconds that a node is remembered since it was last heard of


@dataclass(frozen=True, slots=True)
class NodeRecord:
    """What a node tells of itself with every heartbeat."""

    node: str
    started_at: float
    seen_at: float
    applied: Position
    version: str
    address: str = ""
    info: Mapping[str, object] = field(default_factory=dict)


class Reached(NamedTuple):
    """Which live nodes have not applied a change (None: nobody could be asked), and which were not heard of lately.

    A silent one is dead, or cut off: then it may serve what it holds in memory, and is named for as long as it may.
    """

    missing: list[str] | None
    silent: list[str]

    def told(self) -> dict[str, object]:
        """As it is answered."""
        applied = None if self.missing is None else not self.missing
        return {"applied": applied, "missing": self.missing or [], "silent": self.silent}


class Registry(Leases, Protocol):
    """What the nodes of a site share beside the entries: who is there, who does what, and the dictionaries."""

    async def heartbeat(self, record: NodeRecord) -> None: ...

    async def nodes(self, *, seen_within: float) -> Sequence[NodeRecord]:
        """The nodes that were heard of in the last `seen_within` seconds, by the authority's clock."""
        ...

    async def leave(self, node: str) -> None: ...

    async def add_dictionary(self, module: str, data: bytes) -> int:
        """Store a compression dictionary for good; its id, from 1, never used again."""
        ...

    async def dictionaries(self, *, after: int) -> Sequence[tuple[int, str, bytes]]:
        """`(id, module, data)` of the dictionaries with an id over `after`, in order."""
        ...
