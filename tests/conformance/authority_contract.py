"""The contract of `ports.Authority`, as tests: a new implementation gives a `store` fixture and inherits them all.

Nothing here knows the implementation: what it may do freely, such as how soon a wake-up comes, no test looks at.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from cachesvc.ports import Authority, Leases
from tests.conformance.authority_agenda import Conflicts, Reminders
from tests.conformance.authority_invalidations import Invalidations, Relations, Soft
from tests.conformance.authority_jobs import Jobs
from tests.conformance.authority_log import Log
from tests.conformance.authority_publications import Publications
from tests.conformance.authority_revocations import Revocations
from tests.conformance.authority_rows import Rows
from tests.conformance.authority_store import Store
from tests.conformance.authority_writes import Writes
from tests.conformance.lease_contract import LeaseContract


class AuthorityContract(
    Writes, Log, Rows, Invalidations, Soft, Relations, Jobs, Publications, Revocations, Conflicts, Reminders, LeaseContract
):
    """Inherit it as `Test…`, next to a `store` fixture."""

    @pytest.fixture
    async def authority(self, store: Store) -> AsyncIterator[Authority]:
        async with store.opened() as authority:
            yield authority

    @pytest.fixture
    async def second(self, store: Store, authority: Authority) -> AsyncIterator[Authority]:
        """Another handle of the same store where there can be one, else the same."""
        if not store.shared:
            yield authority
            return
        async with store.opened() as second:
            yield second

    @pytest.fixture
    def leases(self, authority: Authority) -> Leases:
        return authority

    @pytest.fixture
    def others(self, second: Authority) -> Leases:
        return second
