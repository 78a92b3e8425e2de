"""What the batch gateway costs: a hundred thousand requests through it beside the same requests sent directly.

Gateway, inference server (a stand-in that answers after a fixed time) and the daemon's stand-in run in processes of
their own on this machine. Direct and through the gateway take turns in one run, with the same client library and the
same number of requests at once.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import os
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.support.report import Figures, run, say, spread
from scheduler.gateway.upstream import Answer, Upstream
from tests.support.gateway import Desk, Granting, line

AT_ONCE = 64
ANSWER_S = 0.1
MODEL = "tiny"
LOOK_S = 0.1
"""Time between two looks at a batch: it lengthens what is measured by at most that."""


@dataclass(frozen=True)
class Size:
    """Requests of each turn, turns, lines of the large file (of which only the checking and the memory count), and how
    many of these are answered."""

    requests: int = 25_000
    turns: int = 4
    lines: int = 1_000_000
    answers: int = 100_000


FULL = Size()
QUICK = Size(requests=1500, turns=1, lines=20_000, answers=2000)
PARTS = ("overhead", "reached", "memory")


def measure(
    quick: bool, seed: int, parts: Sequence[str] = (), turns: int | None = None, answers: int | None = None
) -> Figures:
    """The figures of these parts (none: of all), printed on the way. Nothing here is random: the seed plays no
    part."""
    size = QUICK if quick else FULL
    size = replace(size, turns=turns or size.turns, answers=min(answers or size.answers, size.lines))
    with tempfile.TemporaryDirectory(prefix="gridpace-batch-") as name, ExitStack() as stack:
        folder = Path(name)
        url = server(stack)
        daemon = Granting()
        stack.callback(daemon.close)
        desk = Desk(folder / "gateway", url, daemon.url, "token", per_gpu=1)
        stack.callback(desk.close)
        desk.start()
        daemon.gpus = AT_ONCE
        work = {
            "overhead": partial(_overhead, size, desk, url),
            "reached": partial(_reached, desk, daemon),
            "memory": partial(_memory, size, folder),
        }
        figures: dict[str, Any] = {}
        for part in parts or PARTS:
            figures |= work[part]()
        return figures


def _overhead(size: Size, desk: Desk, url: str) -> dict[str, Any]:
    """Wall time through the gateway over wall time without it, and whether every line came back once."""
    ratios, cpu_ms, lost, doubled = list[float](), list[float](), 0, 0
    for turn in range(size.turns):
        direct_s = asyncio.run(_direct(url, size.requests))
        before_s = cpu_s(desk.lives[-1].pid)
        name, gateway_s = _through(desk, size.requests)
        cpu_ms.append(1e3 * (cpu_s(desk.lives[-1].pid) - before_s) / size.requests)
        found = desk.look(name)
        seen = Counter(row["custom_id"] for row in desk.lines(found["output_file_id"]))
        lost += size.requests - len(seen)
        doubled += sum(seen.values()) - len(seen)
        ratios.append(gateway_s / direct_s)
        say(f"turn {turn + 1}: {size.requests} requests directly {direct_s:.1f} s, as a batch {gateway_s:.1f} s")
    say(f"time as a batch over time directly: {spread(ratios)}; lost {lost}, doubled {doubled}")
    say(f"CPU time of the gateway: {spread(cpu_ms)} ms a request, its upload and check included")
    requests = size.requests * size.turns
    found = {"overhead_ratio": median(ratios), "requests": requests, "lost": lost, "doubled": doubled}
    return found | {"cpu_ms_per_request": median(cpu_ms)}


async def _direct(url: str, count: int) -> float:
    """Seconds for so many requests, AT_ONCE at a time."""
    upstream, numbers = Upstream(url, None, 60.0), iter(range(count))

    async def one() -> None:
        for number in numbers:
            answer = await upstream.send("/v1/chat/completions", line(number, f"w{number}")["body"])
            assert isinstance(answer, Answer), answer

    start = time.perf_counter()
    await asyncio.gather(*(one() for _ in range(AT_ONCE)))
    took = time.perf_counter() - start
    await upstream.close()
    return took


def _through(desk: Desk, count: int) -> tuple[str, float]:
    """The batch's id, and seconds from the first request sent to the last answered: uploading and checking, which a
    client does not do without a gateway, are told apart by `memory`."""
    name = desk.batch([f"w{number}" for number in range(count)])
    desk.wait(lambda: desk.look(name)["status"] != "validating", 600)
    start = time.perf_counter()
    with desk.session() as session:  # as a client looks that is in no hurry: each look counts against the gateway
        while _done(session.get(f"{desk.url}/v1/batches/{name}").json()) < count:
            time.sleep(LOOK_S)
    took = time.perf_counter() - start
    desk.ended(name)
    return name, took


def cpu_s(pid: int) -> float:
    """CPU seconds that a process has used: neighbours on the machine lengthen waits, and this hardly."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _done(batch: dict[str, Any]) -> int:
    return int(batch["request_counts"]["completed"]) + int(batch["request_counts"]["failed"])


def _reached(desk: Desk, daemon: Granting) -> dict[str, Any]:
    """Longest time from a new grant to as many requests under way as it allows, up and down."""
    name = desk.batch([f"w{number}" for number in range(20_000)])
    longest = 0.0
    for gpus in (8, 64, 16, 48, 4):
        daemon.gpus = gpus
        start = time.perf_counter()
        desk.wait(lambda gpus=gpus: _under_way(desk) == gpus)
        longest = max(longest, time.perf_counter() - start)
    desk.call("POST", f"/v1/batches/{name}/cancel")
    desk.ended(name)
    say(f"from a changed grant to as many requests at once: {longest:.2f} s at most")
    return {"plan_to_concurrency_s": longest}


def _under_way(desk: Desk) -> int:
    text = desk.call("GET", "/metrics").text
    rows = (row for row in text.splitlines() if row.startswith("gridpace_gateway_requests_in_flight{"))
    return int(float(next(rows).rsplit(" ", 1)[1]))


def _memory(size: Size, folder: Path) -> dict[str, Any]:
    """Highest resident memory of a gateway that has taken, checked and begun a very large file and answered much of it,
    and of the one that goes on with it after a stop."""
    with ExitStack() as stack:
        daemon = Granting()
        stack.callback(daemon.close)
        desk = Desk(folder / "large", server(stack, 0.0), daemon.url, "token", per_gpu=1)
        stack.callback(desk.close)
        desk.start()
        daemon.gpus = AT_ONCE
        name, check_s = _large(size, desk, folder / "large.jsonl")
        begun_mb = peak_mb(desk)
        start = time.perf_counter()
        desk.wait(lambda: _rested(desk, name) >= size.answers, 3600)
        answered_s = time.perf_counter() - start
        first_mb = peak_mb(desk)
        desk.lives[-1].send_signal(signal.SIGTERM)
        desk.lives[-1].wait()
        desk.start()
        before = _done(desk.look(name))
        more = min(size.lines, before + size.answers // 10)
        desk.wait(lambda: _rested(desk, name) >= more, 3600)
        again_mb, after = peak_mb(desk), _done(desk.look(name))
    say(f"at most {begun_mb:.0f} MB resident when it began, {first_mb:.0f} MB once {before} lines were answered")
    say(f"(in {answered_s:.0f} s); started again and gone on to {after}: {again_mb:.0f} MB")
    found = {"peak_mb": first_mb, "peak_again_mb": again_mb, "peak_begun_mb": begun_mb, "lines": size.lines}
    return found | {"lines_answered": after, "check_s": check_s}


def _rested(desk: Desk, name: str) -> int:
    """Lines that are answered, looked at without haste."""
    time.sleep(LOOK_S)
    return _done(desk.look(name))


def peak_mb(desk: Desk) -> float:
    """Highest resident memory of a gateway's last life so far."""
    status = Path(f"/proc/{desk.lives[-1].pid}/status").read_text(encoding="ascii")
    return float(next(row for row in status.splitlines() if row.startswith("VmHWM:")).split()[1]) / 1024


def _large(size: Size, desk: Desk, path: Path) -> tuple[str, float]:
    """A batch of very many lines that has begun, and how long its check took."""
    with path.open("w") as file:
        for number in range(size.lines):
            file.write(json.dumps(line(number, f"w{number}")) + "\n")
    start = time.perf_counter()
    with path.open("rb") as file:
        answer = desk.call("POST", "/v1/files", files={"file": ("large.jsonl", file)}, data={"purpose": "batch"})
    stored_s = time.perf_counter() - start
    start = time.perf_counter()
    name = desk.create(answer.json()["id"]).json()["id"]
    desk.wait(lambda: desk.look(name)["status"] != "validating", 600)
    checked_s = time.perf_counter() - start
    desk.wait(lambda: _done(desk.look(name)) > AT_ONCE)
    say(f"{size.lines} lines: stored in {stored_s:.1f} s, checked in {checked_s:.1f} s")
    return name, checked_s


def server(stack: ExitStack, answer_s: float = ANSWER_S) -> str:
    """The address of an inference server that answers after so long, in a process of its own."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_serve, args=(there, answer_s), daemon=True)
    process.start()
    stack.callback(process.terminate)
    return str(here.recv())


def _serve(pipe: Any, answer_s: float) -> None:
    from tests.support.openai_server import OpenAiServer

    server = OpenAiServer()
    server.delay_s = answer_s
    pipe.send(server.url)
    server._thread.join()


def main(argv: Sequence[str] | None = None) -> None:
    """The command; `--part NAME`, as often as one likes, for a part of it, `--turns N` for a sitting of the first,
    `--answers N` for so many lines of the large file."""
    options = argparse.ArgumentParser(add_help=False)
    options.add_argument("--part", action="append", default=[], choices=PARTS)
    options.add_argument("--turns", type=int)
    options.add_argument("--answers", type=int)
    asked, others = options.parse_known_args(argv)
    measured = partial(measure, parts=asked.part, turns=asked.turns, answers=asked.answers)
    run("batch", (__doc__ or "").splitlines()[0], measured, others)


if __name__ == "__main__":
    main()
