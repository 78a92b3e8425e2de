"""A secret is read where it is used, and never appears anywhere else: a canary in every place that may be printed."""

# ruff: noqa: E501 - what the operator sees is one line, and stands here as one

import copy
import json
import logging
import pickle
from pathlib import Path

import pytest
from pydantic import TypeAdapter, ValidationError

from adapters.secrets import Secret, SecretError, SecretRef
from scheduler.config import ConfigError, load_config

CANARY = "canary-7f3a9c51"

CONFIG = """\
currency: USD
sites: [{id: a, timezone: UTC, price: p}]
pools: [{id: g, site: a, gpu_model: A100-400W, count: 8, work: training, curve: A100-400W/infer_llama_8b}]
signals: [{id: p, type: constant, value: 50}]
power: {type: POWER}
programs:
  - {id: dr, site: a, channel: {type: webhook, secret: "file:key"}}
api:
  tokens: [{name: ops, scope: write, secret: "env:GRIDPACE_TEST_TOKEN"}]
"""


@pytest.fixture
def write(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GRIDPACE_TEST_TOKEN", CANARY)
    Path("key").write_text(f"{CANARY}\n")
    Path("key").chmod(0o600)

    def written(text=CONFIG, power="simulated"):
        Path("gridpace.yaml").write_text(text.replace("POWER", power))
        return Path("gridpace.yaml")

    return written


def test_secrets_are_read_where_they_are_used(write, tmp_path):
    config = load_config(write(), need_secrets=True)
    assert config.programs[0].channel.secret.reveal(config.base_dir) == CANARY
    assert config.api.tokens[0].secret.reveal(config.base_dir) == CANARY


def test_no_way_of_printing_a_config_shows_a_secret(write, capsys, caplog):
    config = load_config(write(), need_secrets=True)
    secret = config.programs[0].channel.secret
    secret.reveal(config.base_dir)
    with caplog.at_level(logging.DEBUG):
        logging.getLogger("test").warning("%s %r", config, config)
    shown = [repr(config), str(config), config.model_dump_json(), json.dumps(config.model_dump(mode="json")),
             repr(config.model_dump()), f"{secret} {secret!r}", pickle.dumps(copy.copy(secret)).decode("latin1"),
             caplog.text]  # fmt: skip
    assert not [text for text in shown if CANARY in text]
    assert '"secret":"file:key"' in config.model_dump_json()


@pytest.mark.parametrize(
    "place",
    [
        'secret: "file:key"',
        'secret: "env:GRIDPACE_TEST_TOKEN"',
    ],
)
@pytest.mark.parametrize("value", [CANARY, f"envv:{CANARY}", f"[{CANARY}]", f"{{value: {CANARY}}}"])
def test_an_inline_secret_is_refused_and_not_repeated(write, place, value):
    path = write(CONFIG.replace(place, f"secret: {value}" if value[0] in "[{" else f'secret: "{value}"'))
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    text = str(caught.value)
    assert "a secret never stands in the config itself" in text
    assert CANARY not in text
    assert CANARY not in repr(caught.value.__cause__) + repr(caught.value.__context__)


def test_pydantic_itself_keeps_quiet_about_the_value():
    with pytest.raises(ValidationError) as caught:
        TypeAdapter(Secret, config={"hide_input_in_errors": True}).validate_python(CANARY)
    assert CANARY not in str(caught.value)


def test_an_absent_secret_names_its_reference(write, tmp_path, monkeypatch):
    monkeypatch.delenv("GRIDPACE_TEST_TOKEN")
    Path("key").unlink()
    path = write()
    assert load_config(path).api.tokens, "a plan or a backtest needs no secrets"
    with pytest.raises(ConfigError) as caught:
        load_config(path, need_secrets=True)
    assert [str(problem) for problem in caught.value.problems] == [
        f"gridpace.yaml:7: programs[0].channel.secret: file:key: {tmp_path}/key cannot be read: No such file or directory",
        "gridpace.yaml:9: api.tokens[0].secret: env:GRIDPACE_TEST_TOKEN: the environment has no variable GRIDPACE_TEST_TOKEN",
    ]


def test_credentials_come_from_systemd(tmp_path, monkeypatch):
    secret = SecretRef.parse("credential:webhook")
    with pytest.raises(SecretError, match="CREDENTIALS_DIRECTORY is not set"):
        secret.reveal(tmp_path)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    (tmp_path / "webhook").write_text(f"{CANARY}\n")
    assert secret.reveal(Path("/nowhere")) == CANARY
    (tmp_path / "webhook").write_text(" \n")
    with pytest.raises(SecretError, match="the secret is empty"):
        secret.reveal(tmp_path)


def test_a_secret_that_everybody_can_read_is_a_warning_once_it_matters(write):
    Path("key").chmod(0o644)
    assert load_config(write(power="simulated")).warnings == ()
    warnings = load_config(write(power="nvml")).warnings
    assert [str(warning) for warning in warnings] == [
        "gridpace.yaml:7: programs[0].channel.secret: file:key: every user of this machine can read this file."
    ]
    Path("key").chmod(0o600)
    assert load_config(write(power="nvml")).warnings == ()
