"""What a program lets a message do: its notice, its smallest and largest reduction, and its defaults.

Why before the ledger: the ledger keeps what was agreed; what may be agreed at all is the operator's contract.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from adapters.ports import EventMessage, EventRefused
from scheduler.ledger.resolve import ProgramTerms, asked_kw, nonsense


@dataclass(frozen=True)
class ProgramRules:
    """A program speaks for its own `site` alone (None: any, for the operator). `terms` fill what a message leaves out.
    An event with less than `notice` is best effort, except an emergency; one below `least_kw` is refused; no more than
    `most_kw` is promised."""

    terms: ProgramTerms = field(default_factory=ProgramTerms)
    site: str | None = None
    notice: timedelta = timedelta(0)
    least_kw: float = 0.0
    most_kw: float = float("inf")

    def applied(self, message: EventMessage, base_kw: float, now: datetime) -> EventMessage:
        """The message as the program allows it. Raises EventRefused for another site, and for a reduction that is too
        small to count."""
        if self.site is not None and message.site != self.site:
            raise EventRefused(f"site: program {self.terms.id} is for {self.site}, not for {message.site!r}", 422)
        if message.cancelled or nonsense(message, self.terms, now):
            return message  # the ledger withdraws the one and refuses the other
        asked = asked_kw(message, base_kw)
        if 0 < asked < self.least_kw:
            text = f"targets: {asked:.0f} kW is below the program's smallest reduction of {self.least_kw:.0f} kW"
            raise EventRefused(text, 422)
        short = message.start - now < self.notice and not message.emergency
        return replace(message, firm=False) if short else message
