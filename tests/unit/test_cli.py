"""The command line: help that starts fast, exit codes that scripts rely on, and talk with a real API server."""

# ruff: noqa: E501 - configs and messages stand here as they are written and seen
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from structlog.testing import capture_logs
from typer.testing import CliRunner

from scheduler.api import ApiServer, ApiSettings, Token, create_app
from scheduler.cli.app import app
from scheduler.cli.events import parse_target
from scheduler.cli.vtn import DEFAULT_URL, rehearsal_hall
from scheduler.clock import VirtualClock
from scheduler.config import load_config
from tests.support.fake_service import EVENT, START, FakeService

ROOT = Path(__file__).resolve().parents[2]
SIMPLE = """\
mode: control
currency: USD
state_dir: state
sites: [{id: west, timezone: America/Los_Angeles, price: energy, pue: {base: 1.1}, limit_kw: 30}]
pools:
  - {id: chat, site: west, gpu_model: A100-400W, count: 40, gpus: {model: "*A100*"}, work: interactive, curve: A100-400W/infer_llama_8b, value_per_gpu_h: 5, floor: 0.9, load: 0.9}
  - {id: tune, site: west, gpu_model: A100-400W, count: 30, gpus: {uuids: [GPU-1]}, work: batch, curve: A100-400W/ft_llama_8b_dolly}
signals: [{id: energy, type: constant, value: 80}]
power: {type: POWER}
jobs:
  recurring: [{id: nightly, pool: tune, work_gpu_h: 60, max_gpus: 20, at: "00:00", value_per_gpu_h: 1}]
api: {port: 0000}
"""


@pytest.fixture
def gridpace(tmp_path, monkeypatch):
    """Runs a command in an empty folder; returns its result (`exit_code`, `stdout`, `stderr`)."""
    monkeypatch.chdir(tmp_path)
    return lambda *arguments, **how: CliRunner().invoke(app, arguments, **how)


@pytest.fixture
def simple(tmp_path):
    def written(power="simulated", port=8642):
        path = tmp_path / "gridpace.yaml"
        path.write_text(SIMPLE.replace("POWER", power).replace("0000", str(port)))
        return str(path)

    return written


@pytest.fixture
def daemon(monkeypatch):
    service = FakeService(VirtualClock(START))
    settings = ApiSettings(read_tokens=(Token("eyes", "r"),), write_tokens=(Token("ops", "w"),), page=False)
    with capture_logs(), ApiServer(create_app(service, settings), "127.0.0.1", 0) as server:
        monkeypatch.setenv("GRIDPACE_URL", server.url)
        monkeypatch.setenv("GRIDPACE_TOKEN", "w")
        yield service


# ---------------------------------------------------------------- help
def every_command():
    names = [[command.name or command.callback.__name__] for command in app.registered_commands]
    for group in app.registered_groups:
        names += [[group.name, command.name] for command in group.typer_instance.registered_commands]
    return names


@pytest.mark.parametrize("command", every_command(), ids=" ".join)
def test_every_command_explains_itself_with_an_example(gridpace, command):
    if command == ["agent"]:
        return  # its help is its own program's; see test_the_agent_starts_without_the_rest
    result = gridpace(*command, "--help")
    assert result.exit_code == 0
    assert f"  gridpace {' '.join(command)}" in result.stdout.split("Examples:")[1]


def test_help_imports_nothing_slow():
    script = (
        "import sys; sys.argv[1:] = ['--help']\nfrom scheduler.cli import main\ntry: main()\nexcept SystemExit: pass\n"
    )
    script += "print([name for name in ('pydantic', 'pyomo', 'pandas', 'fastapi', 'rich', 'requests') if name in sys.modules])"
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT)
    assert run.stdout.splitlines()[-1] == "[]"


def test_the_agent_starts_without_the_rest():
    script = "import sys; sys.argv[1:] = ['agent', '--help']\nfrom scheduler.cli import main\ntry: main()\n"
    script += "except SystemExit: pass\nprint([name for name in ('typer', 'pydantic', 'pyomo') if name in sys.modules])"
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT)
    assert "usage: gridpace agent" in run.stdout
    assert run.stdout.splitlines()[-1] == "[]"


def test_the_shell_completes_commands():
    environment = {**os.environ, "_GRIDPACE_COMPLETE": "complete_bash", "COMP_WORDS": "gridpace re", "COMP_CWORD": "1"}
    command = [Path(sys.executable).with_name("gridpace")]
    run = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert run.stdout.split() == ["resume", "release"]


# ---------------------------------------------------------------- exit codes
@pytest.mark.parametrize("command", ["run", "check", "plan"])
def test_a_wrong_config_is_shown_whole_and_exits_with_2(gridpace, command):
    Path("bad.yaml").write_text("mode: obserwe\ncurrency: USD\nsite: []\n")
    result = gridpace(command, "--config", "bad.yaml")
    assert result.exit_code == 2
    assert result.stderr.splitlines()[0] == (
        'bad.yaml:1: mode: "obserwe" is not one of observe, advise, control. Did you mean "observe"?'
    )
    assert 'bad.yaml:3: site: unknown key. Did you mean "sites"?' in result.stderr.splitlines()


def test_check_tells_a_program_about_a_wrong_config_too(gridpace):
    Path("bad.yaml").write_text("mode: obserwe\n")
    result = gridpace("check", "--config", "bad.yaml", "--json")
    answer = json.loads(result.stdout)
    assert (result.exit_code, answer["ok"], answer["problems"][0]["line"]) == (2, False, 1)


def test_wrong_use_exits_with_2(gridpace):
    assert gridpace("plam").exit_code == 2
    assert gridpace("explain").exit_code == 2
    result = gridpace("events", "add", "x", "--site", "a", "--start", "soon", "--end", "later", "--target", "4000kW")
    assert result.exit_code == 2
    assert '"soon" is not a date or a time' in result.stderr


def test_nobody_answering_exits_with_1_and_says_what_to_do(gridpace):
    result = gridpace("status", "--url", "http://127.0.0.1:9")
    assert result.exit_code == 1
    assert result.stderr.startswith("http://127.0.0.1:9: nothing answers there. Is `gridpace run` running?")


def test_a_second_daemon_exits_with_3(gridpace, simple, tmp_path):
    from scheduler.lock import DaemonLock

    with DaemonLock(tmp_path / "state"):
        result = gridpace("run", "--config", simple())
    assert result.exit_code == 3
    assert f"another gridpace is running as process {os.getpid()}" in result.stderr


def test_a_bug_is_not_hidden_in_a_sentence(gridpace, monkeypatch):
    monkeypatch.setattr("scheduler.cli.client.Client.get", lambda *_, **__: 1 / 0)
    assert isinstance(gridpace("status", "--url", "http://127.0.0.1:9").exception, ZeroDivisionError)


# ---------------------------------------------------------------- a running daemon
def test_status_is_what_the_daemon_says(gridpace, daemon):
    result = gridpace("status")
    assert result.exit_code == 0, result.stderr
    assert result.stdout.splitlines()[0] == daemon.report().sentence()
    for word in ("chat", "pretrain", EVENT.id):
        assert word in result.stdout
    assert json.loads(gridpace("status", "--json").stdout)["cycle"]["sentence"] == daemon.report().sentence()


def test_status_shows_an_enforced_limit_beside_the_cap_where_it_differs(gridpace, daemon):
    assert "enforced" not in gridpace("status").stdout
    daemon.enforced_w = {"chat": 150.0}
    said = gridpace("status").stdout
    assert "(150" in said
    assert "enforced)" in said, "on a line of its own, where the terminal is narrow"


def test_status_before_the_first_plan(gridpace, daemon):
    daemon.started = False
    assert gridpace("status").stdout == "The daemon has not planned yet.\n"


def test_explain_answers_in_a_sentence(gridpace, daemon):
    assert gridpace("explain", "chat").stdout.strip() == daemon.explain("chat")
    unknown = gridpace("explain", "nobody")
    assert (unknown.exit_code, unknown.stdout) == (1, "")
    assert unknown.stderr.startswith("refused: ")


@pytest.mark.parametrize("action", ["pause", "resume", "release"])
def test_orders_reach_the_daemon_with_the_name_of_their_token(gridpace, daemon, action):
    assert gridpace(action).exit_code == 0
    assert [(order.action, order.by) for order in daemon.orders] == [(action, "ops")]


def test_a_limit_is_set_and_lifted(gridpace, daemon):
    assert gridpace("limit", "west", "3000", "--until", "2022-09-07T04:00Z").exit_code == 0
    assert gridpace("limit", "west").exit_code == 0
    assert [(order.site, order.limit_kw) for order in daemon.orders] == [("west", 3000.0), ("west", None)]
    assert daemon.orders[0].until.isoformat() == "2022-09-07T04:00:00+00:00"


def test_a_token_that_may_only_read_is_refused_with_a_hint(gridpace, daemon, monkeypatch):
    monkeypatch.setenv("GRIDPACE_TOKEN", "r")
    result = gridpace("pause")
    assert (result.exit_code, daemon.orders) == (1, [])
    assert "Give a token of scope `write`" in result.stderr


def test_address_and_token_come_from_the_config(gridpace, daemon, tmp_path, monkeypatch, simple):
    port = os.environ["GRIDPACE_URL"].rpartition(":")[2]
    for name in ("GRIDPACE_URL", "GRIDPACE_TOKEN"):
        monkeypatch.delenv(name)
    path = Path(simple(port=port))
    (tmp_path / "key").write_text("w\n")
    (tmp_path / "eyes").write_text("r\n")
    secrets = '[{name: gone, scope: write, secret: "env:NONE"}, {name: eyes, secret: "file:eyes"}, {name: ops, scope: write, secret: "file:key"}]'
    path.write_text(path.read_text().replace(f"port: {port}", f"port: {port}, tokens: {secrets}"))
    result = gridpace("pause", "--config", str(path))
    assert result.exit_code == 0, result.stderr
    assert daemon.orders[0].by == "ops"


def test_events_by_hand(gridpace, daemon):
    times = ("--start", "2022-09-07T01:00Z", "--end", "2022-09-07T02:00Z")
    added = gridpace("events", "add", "drill", "--site", "west", *times, "--target=-25%", "--json")
    assert added.exit_code == 0, added.stderr
    assert json.loads(added.stdout)["id"] == "drill"
    assert "drill" in gridpace("events", "list").stdout
    assert gridpace("events", "cancel", "drill").exit_code == 0
    assert next(event for event in daemon.events() if event.id == "drill").state == "cancelled"


def test_an_event_by_phone_starts_now_and_lasts(gridpace, daemon):
    added = gridpace("events", "add", "phone", "--site", "west", "--target=-15%", "--duration", "2h", "--json")
    assert added.exit_code == 0, added.stderr
    for ending in ((), ("--duration", "2h", "--end", "2022-09-07T02:00Z"), ("--duration", "soon")):
        assert gridpace("events", "add", "x", "--site", "west", "--target=-15%", *ending).exit_code == 2


@pytest.mark.parametrize(
    ("text", "field"),
    [("-25%", {"reduce_percent": 25.0}), ("-1100 kW", {"reduce_kw": 1100.0}), ("4000kW", {"limit_kw": 4000.0})],
)
def test_targets_are_written_as_people_say_them(text, field):
    assert parse_target(text) == field


@pytest.mark.parametrize("text", ["25%", "4000", "lots", "kW", "-%"])
def test_a_target_that_could_mean_two_things_is_refused(gridpace, text):
    times = ("--start", "2022-09-07T01:00Z", "--end", "2022-09-07T02:00Z")
    result = gridpace("events", "add", "x", "--site", "west", *times, f"--target={text}", "--url", "http://127.0.0.1:9")
    assert result.exit_code == 2


def test_jobs_are_submitted_and_cancelled(gridpace, daemon):
    terms = ("--work", "120", "--gpus", "32", "--deadline", "2022-09-07T13:00Z", "--no-preemptible")
    added = gridpace("jobs", "add", "--id", "eval-7", *terms)
    assert added.exit_code == 0, added.stderr
    assert added.stdout.startswith("eval-7: ")
    assert "eval-7" in gridpace("jobs", "list").stdout
    assert json.loads(gridpace("jobs", "cancel", "eval-7", "--json").stdout)["id"] == "eval-7"
    assert gridpace("jobs", "cancel", "eval-8").exit_code == 1


# ---------------------------------------------------------------- from a config alone
def test_schema_is_json(gridpace):
    assert json.loads(gridpace("schema").stdout)["title"] == "Config"


def test_plan_shows_orders_with_their_reasons(gridpace, simple):
    result = gridpace("plan", "--config", simple(), "--at", "2024-05-06T12:00")
    assert result.exit_code == 0, result.stderr
    assert "Mon 06 12:00" in result.stdout
    assert "nightly-2024-05-06" in result.stdout
    answer = json.loads(gridpace("plan", "--config", simple(), "--at", "2024-05-06T12:00", "--json").stdout)
    assert answer["plan"]["grid"]["edges"][0] == "2024-05-06T19:00:00Z"
    assert set(answer["plan"]["pools"]) == {"chat", "tune"}


def test_check_has_a_line_with_its_place_for_each_part(gridpace, simple, tmp_path):
    result = gridpace("check", "--config", simple(power="nvml").replace(str(tmp_path) + "/", ""))
    lines = result.stdout.splitlines()
    assert any(line.startswith("gridpace.yaml:8: ok: signal energy: ok, 80 USD/MWh") for line in lines), result.output
    assert any(line.startswith("gridpace.yaml:4: ok: plan: optimum in ") for line in lines)
    assert result.exit_code == 0
    assert not (tmp_path / "state").exists(), "a check writes nothing"


def test_the_hall_that_the_test_server_names_is_there_and_calls_that_server(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    *command, path = rehearsal_hall().split()
    assert command == ["gridpace", "run", "--config"]
    (program,) = load_config(Path(path), need_secrets=True).programs
    assert program.channel.url == DEFAULT_URL
