"""Shared by the tests of pairs."""

import pytest


@pytest.fixture
def small_disk(mount_disk):
    """A folder of one megabyte."""
    return mount_disk("1m")
