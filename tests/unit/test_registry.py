"""The registry: lazy, open to installed packages, and clear about what is missing."""

import subprocess
import sys
from importlib.metadata import EntryPoint

import pytest
from pydantic import BaseModel

from adapters import registry
from adapters.registry import MissingExtra, UnknownAdapter
from adapters.signals.constant import ConstantSource


def offer(monkeypatch, *points):
    found = [EntryPoint(name, value, "gridpace.signals") for name, value in points]
    monkeypatch.setattr(registry, "entry_points", lambda group: [point for point in found if point.group == group])


def test_an_adapter_is_imported_only_when_it_is_named():
    code = """
import sys
from adapters import registry
registry.config_model("signals", "constant")
heavy = {"pandas", "holidays", "pyarrow", "pynvml"}
print(*sorted(name for name in sys.modules if name.startswith("adapters.signals.") or name in heavy))
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.split() == ["adapters.signals.base", "adapters.signals.constant"]


@pytest.mark.parametrize("kind", sorted(registry.BUILTIN))
def test_every_field_of_every_built_in_config_has_a_description_and_an_example(kind):
    bare = []

    def visit(model, path):
        assert model.model_config.get("extra") == "forbid", path
        for name, field in model.model_fields.items():
            if not field.description or not field.examples:
                bare.append(f"{path}.{name}")
            for inner in (field.annotation, *getattr(field.annotation, "__args__", ())):
                if isinstance(inner, type) and issubclass(inner, BaseModel):
                    visit(inner, f"{path}.{name}")

    for type_name, model in registry.config_models(kind).items():
        visit(model, f"{kind}.{type_name}")
        assert model.model_fields["type"].annotation.__args__ == (type_name,)
    assert not bare


def test_an_unknown_type_is_answered_with_the_closest():
    with pytest.raises(UnknownAdapter, match=r'"tarif" is not a type of signals; known: .* Did you mean "tariff"'):
        registry.adapter_class("signals", "tarif")
    with pytest.raises(UnknownAdapter, match='"signal" is not a kind of adapter'):
        registry.known_types("signal")


def test_an_installed_package_adds_a_type_and_never_replaces_one(monkeypatch):
    offer(monkeypatch, ("mine", "adapters.signals.constant:ConstantSource"), ("csv", "os:path"))
    assert registry.adapter_class("signals", "mine") is ConstantSource
    assert registry.adapter_class("signals", "csv").__name__ == "CsvSource"
    assert "mine" in registry.known_types("signals")
    assert "mine" not in registry.config_models("signals")


@pytest.mark.parametrize(("value", "text"), [
    ("adapters.signals.constant:Nothing", "cannot be loaded from"), ("os:path", "is not a class"),
    ("no_such_package:X", "needs no_such_package"),
])  # fmt: skip
def test_a_package_that_offers_rubbish_is_named(monkeypatch, value, text):
    offer(monkeypatch, ("mine", value))
    with pytest.raises((UnknownAdapter, MissingExtra), match=text):
        registry.adapter_class("signals", "mine")


def test_two_packages_with_one_name_are_refused(monkeypatch):
    offer(monkeypatch, ("mine", "a:X"), ("mine", "b:X"))
    with pytest.raises(UnknownAdapter, match="is offered by a:X, b:X"):
        registry.adapter_class("signals", "mine")


def test_a_missing_extra_names_the_command_that_installs_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingExtra, match=r"pip install gridpace\[parquet\]"):
        registry.import_extra("pyarrow")
