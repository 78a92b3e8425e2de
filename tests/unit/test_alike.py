"""Classes of nearly alike jobs join each other as one by one, kind by kind, would; and in little memory."""

import tracemalloc

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from optimizer.alike import _packed


def one_by_one(hours, slack_h, share, kept):
    """The rule as it is said, for one kind: tightest first, each joins the nearest that it may, or begins its own."""
    into, begun = {}, []
    for mine in np.lexsort((slack_h,)):
        asked, best = hours[:, mine], None
        for one in begun:
            room = one["held"] - asked
            may = room.max() <= one["most"] and np.maximum(one["held"], asked).sum() <= one["least"]
            if may and (best is None or np.abs(room).sum() < best[0]):
                best = (np.abs(room).sum(), one)
        if best is None:
            begun.append({"held": asked, "most": share * slack_h[mine], "least": -kept * slack_h[mine], "first": mine})
            best = (0.0, begun[-1])
        best[1]["held"] = np.maximum(best[1]["held"], asked)
        into[mine] = best[1]["first"]
    return [into[n] for n in range(len(slack_h))]


@given(st.integers(0, 2**32 - 1), st.integers(0, 60), st.integers(1, 6), st.sampled_from((0.1, 1.0, 5.0)))
def test_each_kind_is_packed_as_one_by_one(seed, count, kinds, spread):
    rng = np.random.default_rng(seed)
    _, kind = np.unique(rng.integers(0, kinds, count), return_inverse=True)
    hours = rng.normal(0.0, spread, (3, count))
    slack_h = np.abs(rng.normal(0.0, 4.0, count)) + np.clip(-hours.sum(axis=0), 0.0, None)
    found = _packed(hours, slack_h, kind.astype(np.int64), 0.7, 0.8)
    for one in range(int(kind.max(initial=-1)) + 1):
        mine = np.flatnonzero(kind == one)
        assert found[mine].tolist() == mine[one_by_one(hours[:, mine], slack_h[mine], 0.7, 0.8)].tolist()


def test_one_crowded_kind_beside_many_lonely_ones_takes_little_memory():
    """As a square of kinds and the largest kind these would be 190 MB."""
    kind = np.concatenate([np.zeros(2000, dtype=np.int64), np.arange(1, 2001)])
    rng = np.random.default_rng(1)
    hours, slack_h = rng.normal(0.0, 5.0, (3, len(kind))), np.abs(rng.normal(0.0, 4.0, len(kind)))
    tracemalloc.start()
    try:
        _packed(hours, slack_h, kind, 0.7, 0.8)
        assert tracemalloc.get_traced_memory()[1] < 10e6
    finally:
        tracemalloc.stop()
