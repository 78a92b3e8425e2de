"""What several tests of the dispatcher share; a test that means others by these names has its own."""

import pytest

from scheduler.store.store import Store
from tests.support.dispatching import Clock


@pytest.fixture
def books(tmp_path):
    """Empty books on disk."""
    store = Store.open(tmp_path / "gridpace.db")
    yield store
    store.close()


@pytest.fixture
def clock():
    """A clock that stands still until a test sets it."""
    return Clock()
