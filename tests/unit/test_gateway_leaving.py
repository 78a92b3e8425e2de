"""A gateway that is removed for good: what it holds is listed, let go of, and the daemon keeps no job of it."""

import json
from dataclasses import replace

import pytest
from typer.testing import CliRunner

from scheduler.cli.app import app
from scheduler.gateway.config import load_gateway
from scheduler.gateway.leaving import held_by_gateway, release_gateway
from scheduler.gateway.lines import answered, parse
from scheduler.gateway.model import Status
from scheduler.gateway.sales import State
from scheduler.lock import DaemonLock
from tests.support.gateway import Granting, asked
from tests.unit.test_gateway_sold import sold_one
from tests.unit.test_gateway_talk import begun, created, opened, run


@pytest.fixture(autouse=True)
def logs_as_they_are(monkeypatch):
    monkeypatch.setattr("scheduler.logs.configure_logs", lambda _form: None)


@pytest.fixture
def daemon():
    made = Granting()
    yield made
    made.close()


@run
async def left_behind(folder, names):
    """A gateway that is stopped with all sorts of work: by name, what was what."""
    async with opened(folder) as (gateway, stand_in):
        names["sale"] = (await sold_one(gateway, stand_in)).id
        half, used, new, done = begun(gateway, 2) + created(gateway, 2)
        names.update(half=half.id, used=used.id, new=new.id, done=done.id)
        line = parse(0, asked(["a"]).encode(), "/v1/chat/completions")
        body = {"usage": {"prompt_tokens": 100, "completion_tokens": 50}}
        running = gateway.runners["llama"].running
        running[used.id].batch = gateway.shelf.put(replace(running[used.id].batch, quote=names["sale"], total=2))
        running[used.id].answers.put(0, answered(used.id, line, 200, "", body), body)
        gateway.shelf.put(done.at(Status.COMPLETED, done.created_at, model="tiny", total=1, work_gpu_h=0.1))


def told_of(folder, daemon):
    """The gateway's file, with this daemon."""
    path = folder / "gateway.yaml"
    path.write_text(path.read_text().replace("daemon: http://127.0.0.1:9", f"daemon: {daemon.url}"))
    return path


def test_what_a_removed_gateway_holds_is_listed_and_let_go_of_and_its_jobs_are_gone(tmp_path, daemon):
    names = {}
    left_behind(tmp_path, names)
    path = told_of(tmp_path, daemon)
    command = CliRunner().invoke(app, ["doctor", "--gateway", str(path)])
    assert command.exit_code == 1, "held, and no gateway runs"
    assert all(name in command.output for name in names.values()), command.output
    assert command.output.endswith("5 held; no gateway runs\n")
    command = CliRunner().invoke(app, ["release", "--gateway", str(path)])
    assert command.exit_code == 0, command.output
    assert command.output.endswith("The gateway holds nothing any more.\n")
    assert set(daemon.cancelled) == {names["half"], names["sale"]}, "the others are no jobs of the daemon"
    assert daemon.progress[names["done"]]["finished"]
    sold = daemon.sold[names["sale"]]
    assert (sold["tokens"], sold["paid"]) == (150, pytest.approx(150 * 1.1 / 1e6)), "what was used is owed"
    assert held_by_gateway(load_gateway(path)) == ()
    found = json.loads(CliRunner().invoke(app, ["doctor", "--gateway", str(path), "--json"]).output)
    assert found == {"gateway_runs": False, "held": []}

    @run
    async def later():
        async with opened(tmp_path) as (gateway, _):
            batches = {one.id: one for one in gateway.shelf.batches()}
            assert {batches[names[name]].status for name in ("half", "used", "new")} == {Status.CANCELLED}
            assert gateway.shelf.held(batches[names["used"]].output_file), "what was answered can be had"
            assert gateway.trade.sales.find("research", names["sale"]).state is State.CANCELLED

    later()


def test_without_its_daemon_it_says_what_is_left_and_goes_on_when_it_is_back(tmp_path, daemon):
    names = {}
    left_behind(tmp_path, names)
    path = told_of(tmp_path, daemon)
    config = load_gateway(path)
    daemon.away = True
    left = release_gateway(config, 0.5)
    assert {one.subject for one in left} == set(names.values()) - {names["new"]}
    assert all("has not heard" in one.text or "not ended yet" in one.text for one in left)
    daemon.away = False
    assert release_gateway(config) == ()
    assert set(daemon.cancelled) == {names["half"], names["sale"]}


def test_a_gateway_that_runs_is_not_released_behind_its_back(tmp_path, daemon):
    names = {}
    left_behind(tmp_path, names)
    path = told_of(tmp_path, daemon)
    with DaemonLock(load_gateway(path).state_dir):
        command = CliRunner().invoke(app, ["doctor", "--gateway", str(path)])
        assert (command.exit_code, "5 held; a gateway runs" in command.output) == (0, True)
        assert CliRunner().invoke(app, ["release", "--gateway", str(path)]).exit_code != 0
    assert not daemon.cancelled
