"""The section of how much callers may ask for."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from cachesvc.settings.values import Section

Rate = Annotated[float, Field(ge=0, le=10_000_000, allow_inf_nan=False)]  # a second; 0: without a limit
Burst = Annotated[float, Field(ge=1, le=100_000_000, allow_inf_nan=False)]
Counted = Annotated[str, Field(pattern=r"^(/v1/[a-z]+|[a-z]+(:[a-z]+)?)$", max_length=64)]
Cost = Annotated[float, Field(ge=0, le=1_000_000, allow_inf_nan=False)]

# what is not named costs 1
COSTS = {
    "cache:invalidate": 5.0,
    "cache:warm": 20.0,
    "recovery:request": 10.0,
    "/v1/batch": 20.0,
    "/v1/changes": 10.0,
    "/v1/invalidate": 5.0,
    "/v1/keys": 5.0,
    "/v1/query": 5.0,
    "/v1/restore": 50.0,
    "/v1/snapshot": 50.0,
    "/v1/sync": 50.0,
    "/v1/warm": 20.0,
}


class Rates(Section):
    """How much each connection of the socket, each user and each address may ask for: tokens that fill with time."""

    enabled: bool = False
    connection_rate: Rate = 200.0  # tokens a second; 0: without a limit
    connection_burst: Burst = 2_000.0  # saved up at most
    user_rate: Rate = 1_000.0
    user_burst: Burst = 10_000.0
    address_rate: Rate = 2_000.0
    address_burst: Burst = 20_000.0
    chunk: float = Field(0.1, gt=0, le=1)  # of a burst, that a node draws ahead from what the nodes share
    max_buckets: int = Field(100_000, ge=100, le=10_000_000)  # users and addresses; over it the longest unused goes
    costs: dict[Counted, Cost] = Field(default_factory=dict)  # by message type, or first part of a path
