"""What is generated from the config's models is what is committed; samples work as they are shipped."""

import re
from pathlib import Path

import pytest
from pydantic import BaseModel

from scheduler.config import ConfigError, load_config
from scheduler.config.describe import model_of
from scheduler.config.entries import ENTRY_PLACES, shipped_models
from scheduler.config.generate import artefacts, write_artefacts
from scheduler.config.generate_schema import json_schema
from scheduler.config.models import Config

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("name", ["config/schema.json", "config/gridpace.yaml", "docs/config-reference.md"])
def test_generated_files_are_up_to_date(name):
    assert (ROOT / name).read_text() == artefacts()[name], "run `make schema` and commit what it writes"


def every_model():
    waiting: list[type[BaseModel]] = [Config]
    waiting += [model for kind in set(ENTRY_PLACES.values()) for model in shipped_models(kind).values()]
    seen = []
    while waiting:
        model = waiting.pop()
        if model not in seen:
            seen.append(model)
            inner = (model_of(field.annotation) for field in model.model_fields.values())
            waiting += [found for found in inner if found is not None]
    return seen


def test_every_key_has_a_description_and_an_example():
    bare = [
        f"{model.__name__}.{name}"
        for model in every_model()
        for name, field in model.model_fields.items()
        if not field.description or field.examples is None
    ]
    assert not bare


def test_no_model_takes_unknown_keys_or_changes():
    loose = [
        model.__name__
        for model in every_model()
        if (model.model_config.get("extra"), model.model_config.get("frozen")) != ("forbid", True)
    ]
    assert not loose


def test_writing_reports_only_what_changed(tmp_path):
    assert len(write_artefacts(tmp_path)) == 7
    (tmp_path / "config/schema.json").write_text("{}")
    assert write_artefacts(tmp_path) == [tmp_path / "config/schema.json"]


def test_the_sample_loads_on_a_fresh_machine_and_only_observes():
    config = load_config(ROOT / "config/gridpace.yaml", need_secrets=True)
    assert (config.mode, config.warnings) == ("observe", ())


def test_every_comment_of_the_sample_is_a_key_that_works(tmp_path):
    """Taking the comment sign away from a key never makes an unknown key or a wrong kind of value."""
    text = (ROOT / "config/gridpace.yaml").read_text()
    keys = re.compile(r"^( *)# (?=( *)(- )?[a-z_]+:( |$))", re.MULTILINE)
    live = keys.sub(r"\1", text)
    assert live.count("\n# ") < text.count("\n# ")
    path = tmp_path / "live.yaml"
    path.write_text(live)
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    # What remains: examples of signals and seasons that the sample itself does not have, and alternatives.
    expected = re.compile(r"is not a signal of this config|needs exactly one of `all: true`|is in no period$")
    assert [str(problem) for problem in caught.value.problems if not expected.search(str(problem))] == []


@pytest.mark.parametrize("name", ["demo.yaml", "sites/s2-caiso-heat-wave.yaml", "sites/s3-uri.yaml"])
def test_shipped_configs_load(name):
    load_config(ROOT / "config" / name, need_secrets=name == "demo.yaml")


def test_the_site_without_shipped_prices_asks_for_them_and_takes_them_from_elsewhere(tmp_path):
    path = ROOT / "config/sites/s1-ercot-2024.yaml"
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    assert [problem.path for problem in caught.value.problems] == ["signals[0].path", "signals[1].path"]
    for name in ("ercot_hubavg_rt15_2024.csv.gz", "ercot_hubavg_da_2024.csv.gz"):
        (tmp_path / name).write_bytes(b"")
    config = load_config(path, data_dir=tmp_path)
    daily = config.jobs.recurring[0]
    # 6 MW firm and 96 MWh of batch a day make the flat 10 MW whose cost is known.
    assert (config.pools[0].count, daily.work_gpu_h / 24 + config.pools[0].count, daily.max_gpus) == (
        6000,
        10_000,
        8000,
    )


def test_the_schema_describes_third_parties_without_judging_them():
    entry = json_schema()["$defs"]["entry_signals"]["anyOf"]
    refs = [option["$ref"] for option in entry if "$ref" in option]
    assert f"#/$defs/{shipped_models('signals')['csv'].__name__}" in refs
    assert entry[-1]["properties"]["type"]["not"] == {"enum": list(shipped_models("signals"))}
