"""Questions to many nodes at once: how they leave, how answers are heard, and how long these are waited for.

Why not simply until the deadline: whoever waits 3 s for a node that has just died keeps no site under its limit
meanwhile, and in a rack that loses its feed nodes die one after the other. So who has not answered is given up when
half of all have, and answers have stopped to come for longer than these took. One that answers later was not lost: that
is told, and the next time it is waited for as long as it needs. Whoever may still be at work on an order gets no other
one on top of it: a slow node would fall behind for ever.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from math import inf
from time import monotonic
from typing import Any

from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.errors import Error as NatsError

from adapters.power import wire
from adapters.power.fleet_answers import Unheard, answer_of

Message = tuple[str, bytes | Mapping[str, Any], dict[str, str] | None]
"""Subject, payload (or what is to be one) and headers."""

BURST = 64
"""So many messages are written down before the first of them leave."""

MUTE_S = 0.1
"""Where only nodes are asked that did not answer the last time, they are waited for so long."""

LEAST_S = 0.4
"""So long after the last answer the others are waited for at least."""

LOOK_S = 0.05
"""How often is looked whether answers still come. However long that took in truth, it counts for so much: what stood
still for two seconds was perhaps this process, and then the answers lie at its door."""

NOT_YET = Unheard("no answer yet")
NOT_ASKED = Unheard("its last order is not answered yet")
"""Of a node that was not asked: it may still be at work on what it was asked before."""

ON_ITS_WAY_S = 0.25
"""A state that comes so soon after a question may have been told before it."""

TWICE = 2.0
"""Who is known to be slow may take so many times as long as the last time."""


@dataclass(eq=False)
class Round:
    """One question to each of many, while answers come. `read` makes an answer of a message, a text where it is none;
    `nodes`: who is asked (empty: not nodes)."""

    nodes: Sequence[str]
    read: Callable[[int, Msg], Any]
    answers: list[Any]
    missing: set[int]
    began: float
    most_s: float
    late: Callable[[Round, int, Msg], None]
    over: bool = False
    """Nobody waits for these answers any more."""
    half_s: float = inf
    """When half of those that are waited for had answered, in seconds from the beginning."""
    took_s: dict[int, float] = field(default_factory=dict)
    done: asyncio.Event = field(default_factory=asyncio.Event)
    subscription: Subscription | None = None

    def __post_init__(self) -> None:
        self.asked = len(self.missing)
        """Of so many an answer is or was to be expected."""
        self.at_work = {node for node, answer in zip(self.nodes, self.answers, strict=False) if answer is NOT_YET}
        """Nodes that were asked and have not answered yet."""

    async def on_answer(self, message: Msg) -> None:
        """Somebody answered."""
        number = int(message.subject.rpartition(".")[2])
        self.at_work.discard(self.nodes[number] if self.nodes else "")
        if self.over:
            self.late(self, number, message)
            return
        self.answers[number] = self.read(number, message)
        if number not in self.missing:
            return
        self.missing.discard(number)
        if isinstance(self.answers[number], str):  # the server's, at once: it tells nothing of how long nodes take
            self.asked -= 1
        else:
            self.took_s[number] = monotonic() - self.began
        self._settle()

    def fail(self, number: int, error: Exception) -> None:
        """This one was not asked, or nobody can answer."""
        self.answers[number] = Unheard(str(error) or type(error).__name__)
        self.asked -= number in self.missing
        self.missing.discard(number)
        self.at_work.discard(self.nodes[number] if self.nodes else "")
        self._settle()

    def _settle(self) -> None:
        """What follows where one less is waited for."""
        if self.half_s == inf and self.took_s and 2 * len(self.missing) <= self.asked:
            self.half_s = max(self.took_s.values())
        if not self.missing:
            self.done.set()

    def nobody_is_waited_for(self) -> bool:
        """Whether all that were asked are mute, and may answer all the same."""
        return bool(self.nodes) and not self.took_s and any(answer is NOT_YET for answer in self.answers)

    def end(self) -> list[Any]:
        """The answers; of who gave none, why."""
        self.over = True
        why = Unheard(f"no answer within {monotonic() - self.began:.2g} s")
        found = [why if answer is NOT_YET else answer for answer in self.answers]
        self.read, self.answers = _nothing, []  # it may stay open for a while, for answers that are late
        return found


def _nothing(_: int, __: Msg) -> None:
    """What is read of an answer that nobody waits for."""


class Pace:
    """Which nodes are slower than the others, and how long anybody is waited for."""

    def __init__(self) -> None:
        self._slow: dict[str, float] = {}

    def patient(self, one: Round, quiet_s: float) -> bool:
        """Whether to wait on, where nothing was heard for so long. Until half have answered, these tell nothing yet of
        the others: it may be the server, or this machine, that stands still."""
        if quiet_s < max(LEAST_S, one.half_s):
            return True
        least_s = (monotonic() - one.began) / TWICE
        slow = {node for node, seconds in self._slow.items() if seconds > least_s}
        return bool(slow) and any(one.nodes[number] in slow for number in one.missing)

    def see(self, one: Round) -> None:
        """A question is over. A slow node that was as quick as the others this time is one of them."""
        if self._slow:
            took_s = {node: one.took_s[number] for number, node in enumerate(one.nodes) if number in one.took_s}
            known = {node: took_s.get(node, seconds) for node, seconds in self._slow.items()}
            self._slow = {node: seconds for node, seconds in known.items() if seconds > LEAST_S}

    def came(self, node: str, seconds: float) -> None:
        """A node that was given up answered after all."""
        self._slow[node] = seconds


class Questions:
    """Asks many at once. Lives in the bus's loop."""

    def __init__(self, client: Callable[[], Client], again_s: float, on_late: Callable[[str], None]) -> None:
        """Who does not answer is asked again after `again_s`. `on_late` hears of every node that answers when it was no
        longer waited for."""
        self._client, self._again_s, self._on_late = client, again_s, on_late
        self._pace = Pace()
        self._open: list[Round] = []

    async def ask(
        self,
        messages: Sequence[Message],
        most_s: float,
        read: Callable[[int, Msg], Any] = lambda _, told: told,
        nodes: Sequence[str] = (),
        mute: Collection[str] = (),
        prompt: bool = False,
    ) -> list[Any]:
        """Send all these at once; each one's answer as `read`, or why there is none (`Unheard`), after `most_s` at the
        latest; `prompt`: as soon as nothing more is to be expected. One subscription hears all answers, by number: a
        request of its own for each of ten thousand nodes would cost more than everything else. Who is `mute`, because
        nothing was heard of it since it did not answer the last time, is asked but not waited for; who may be at work
        on what it was asked before is not asked again by `prompt` (`NOT_ASKED`). What is sent is written down, and
        answers are read, one by one: meanwhile nodes work already."""
        await self._hang_up()
        busy = self.at_work() if prompt and nodes else set()
        answers: list[Any] = [NOT_ASKED if busy and nodes[n] in busy else NOT_YET for n in range(len(messages))]
        waited = {n for n, answer in enumerate(answers) if answer is NOT_YET and not (nodes and nodes[n] in mute)}
        one = Round(nodes, read, answers, waited, monotonic(), most_s, self._late)
        client = self._client()
        inbox = client.new_inbox()
        one.subscription = await client.subscribe(
            f"{inbox}.*", cb=one.on_answer, pending_msgs_limit=-1, pending_bytes_limit=-1
        )
        try:
            await self._send(inbox, messages, one)
            await self._wait(one, most_s, prompt)
        except TimeoutError:
            pass  # who has not answered is named by the caller
        except (NatsError, OSError) as error:
            for number in tuple(one.missing):
                one.fail(number, error)
        finally:
            found = one.end()
            if one.at_work:
                self._open.append(one)
            else:
                await _unsubscribe(one)
        self._pace.see(one)
        return found

    def at_work(self) -> set[str]:
        """Nodes that may still be at work on what they were asked. From any thread."""
        after = monotonic() - self._again_s
        return {node for one in tuple(self._open) if one.began > after for node in tuple(one.at_work)}

    def speaks(self, node: str) -> None:
        """A node told its state. It does one thing after the other, so what it was asked before never reached it."""
        for one in self._open:
            if one.began < monotonic() - ON_ITS_WAY_S:
                one.at_work.discard(node)

    async def _send(self, inbox: str, messages: Sequence[Message], one: Round) -> None:
        """Send these; what can't be sent fails alone, and is not waited for."""
        for number, (subject, told, headers) in enumerate(messages):
            if one.answers[number] is NOT_ASKED:
                continue
            data = told if isinstance(told, bytes) else wire.encode(told)
            try:
                await self._client().publish(subject, data, reply=f"{inbox}.{number}", headers=headers)
            except (NatsError, OSError) as error:
                one.fail(number, error)
            if number % BURST == BURST - 1:
                await asyncio.sleep(0)  # let them leave, and answers come in

    async def _wait(self, one: Round, most_s: float, prompt: bool) -> None:
        """Until all have answered that are waited for, or nothing more is to be expected. Where that was nobody, or
        the server alone spoke for them, the mute ones get a moment of their own."""
        ends = monotonic() + most_s
        if prompt:
            await self._wait_promptly(one, ends, min(LOOK_S, most_s))
        elif one.missing:
            await asyncio.wait_for(one.done.wait(), most_s)
        if not one.missing:
            left_s = max(0.0, ends - monotonic())
            await asyncio.sleep(min(MUTE_S, left_s) if one.nobody_is_waited_for() else 0.0)

    async def _wait_promptly(self, one: Round, ends: float, look_s: float) -> None:
        quiet_s = 0.0
        while one.missing and monotonic() < ends and self._pace.patient(one, quiet_s):
            before = len(one.missing)
            with suppress(TimeoutError):
                await asyncio.wait_for(one.done.wait(), look_s)
            quiet_s = quiet_s + look_s if len(one.missing) == before else 0.0

    def _late(self, one: Round, number: int, message: Msg) -> None:
        node = one.nodes[number]
        if not isinstance(answer_of(message), str):  # else the server, or nobody that understands
            self._pace.came(node, monotonic() - one.began)
            self._on_late(node)

    async def _hang_up(self) -> None:
        """Hear nothing more of questions whose time is over."""
        now = monotonic()
        over = [one for one in self._open if one.began + one.most_s < now]
        self._open = [one for one in self._open if one not in over]  # before others have their turn
        for one in over:
            await _unsubscribe(one)


async def _unsubscribe(one: Round) -> None:
    if one.subscription is not None:
        with suppress(NatsError, OSError):
            await one.subscription.unsubscribe()
