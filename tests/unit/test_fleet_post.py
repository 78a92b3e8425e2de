"""What is kept for nodes, and deleted, while the bucket's servers say nothing for a moment."""

import asyncio
from types import SimpleNamespace

import pytest

from adapters.ports import AdapterError
from adapters.power.fleet_post import TrajectoryPost

LOST = "no answer within 1.5 s"


def post(*rounds):
    """A post whose servers answer so, round by round; what it asked of them, and how often whether it may."""
    asked, permits, left = [], [], list(rounds)

    async def exchange(messages, share):
        asked.append(([subject.rpartition(".")[2] for subject, *_ in messages], share))
        return [one if isinstance(one, str) else SimpleNamespace(data=one) for one in left.pop(0)]

    made = TrajectoryPost(1, exchange, lambda: permits.append(1))
    made._bucket = object()
    return made, asked, permits


def delete(made):
    asyncio.run(made.forget(SimpleNamespace(settings=SimpleNamespace(place="here")), ["n1", "n2", "n3"]))


def test_what_nobody_answered_is_sent_once_more_inside_the_same_patience():
    made, asked, permits = post([b"{}", LOST, LOST], [b"{}", b"{}"])
    delete(made)
    assert asked == [(["n1", "n2", "n3"], 0.5), (["n2", "n3"], 0.5)]
    assert len(permits) == 2, "another daemon may lead by then"


@pytest.mark.parametrize(
    ("rounds", "why"),
    [
        (([b"{}", LOST, LOST], [b"{}", LOST]), LOST),
        (([b'{"error": {"description": "full"}}', LOST, b"{}"],), "full"),
        (([LOST, b"{}", b"{}"], [b""]), "no stream takes it"),
    ],
)
def test_what_is_not_deleted_then_ends_the_release_which_says_so(rounds, why):
    made, asked, _ = post(*rounds)
    with pytest.raises(AdapterError, match=f"not deleted, so that no limit is given back: {why}"):
        delete(made)
    assert len(asked) == len(rounds)
