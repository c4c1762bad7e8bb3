"""What a service holds alone."""

from __future__ import annotations

import resource
from pathlib import Path

import pytest

from cachesvc.errors import StartError
from cachesvc.supervisor.places import claimed


def test_a_directory_without_room_is_said(tmp_path: Path) -> None:
    """A limit on the size of files stands for a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, before[1]))
    try:
        with pytest.raises(StartError) as error, claimed(tmp_path):
            raise AssertionError("it is not held")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert str(error.value) == f"the directory {tmp_path} cannot be written: File too large"
