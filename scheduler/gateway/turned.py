"""A request that a server turns away for load (429, 503, 529): is it the server that is busy, or that request?

Why it matters: where a server is busy all must wait, and no request fails for it. Where it answers all but one (a
request above a limit of its own), waiting would starve everybody else for ever. What tells the two apart is what became
of the others' requests since that one was turned away the last time.
"""

from __future__ import annotations

from dataclasses import dataclass

TELLING = 10
"""So many requests of others were answered for each that was turned away: it is the request, and not the server."""
GIVEN_UP = 8
"""Turned away so often while others were answered, what the server says is the answer. A server that turns away one in
ten at random does that to one in a hundred million requests."""


@dataclass(slots=True)
class Turned:
    """One line's turn-aways. `counted`: those while others were answered; `waits`: those after which it waited by
    itself; `answered` and `turned` were the server's totals at the last one."""

    counted: int = 0
    waits: int = 0
    answered: int | None = None
    turned: int = 0

    def again(self, answered: int, turned: int) -> bool:
        """It was turned away (once more; `turned` counts that in): whether others were answered meanwhile, so that it
        counts against the line."""
        good, bad = answered - (self.answered or 0), turned - self.turned
        alone = self.answered is not None and good >= TELLING * bad
        self.answered, self.turned = answered, turned
        self.counted += alone
        return alone

    @property
    def given_up(self) -> bool:
        """Whether the server's refusal is its answer."""
        return self.counted >= GIVEN_UP
