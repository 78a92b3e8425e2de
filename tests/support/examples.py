"""How many random problems a property of the planner is held to: what fits into a push, or 20,000 in the long run."""

import os

import pytest
from hypothesis import settings

MANY = 20_000
LONGEST_S = 8 * 3600


def many(test):
    """Decorator, above `@given`: 20,000 examples under `make test-long`, else what the profile says."""
    if os.environ.get("HYPOTHESIS_PROFILE") != "long":
        return test
    return pytest.mark.timeout(LONGEST_S)(settings(max_examples=MANY)(test))
