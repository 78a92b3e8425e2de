"""The house rules that a machine can check: sizes, docstrings, annotations, direction of imports."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("optimizer", "adapters", "scheduler")
LONGEST_FILE, LONGEST_FUNCTION = 400, 50

Function = ast.FunctionDef | ast.AsyncFunctionDef
SOURCES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def functions(tree: ast.AST) -> Iterator[Function]:
    return (node for node in ast.walk(tree) if isinstance(node, Function))


def public_functions(tree: ast.Module) -> Iterator[Function]:
    """Functions of the module and methods of its public classes whose names are not private."""
    bodies = [tree.body, *(node.body for node in tree.body if isinstance(node, ast.ClassDef) and node.name[0] != "_")]
    return (node for body in bodies for node in body if isinstance(node, Function) and node.name[0] != "_")


def is_overload(node: Function) -> bool:
    return any(ast.unparse(mark).rsplit(".", 1)[-1] in {"overload", "setter"} for mark in node.decorator_list)


def test_the_rules_see_all_three_packages():
    assert {path.relative_to(ROOT).parts[0] for path in SOURCES} == set(PACKAGES)


def test_no_file_is_longer_than_it_may_be():
    tracked = [*SOURCES, *(ROOT / "tests").rglob("*.py"), *(ROOT / "benchmarks").rglob("*.py")]
    long = {name_of(path): lines for path in tracked if (lines := len(path.read_text().splitlines())) > LONGEST_FILE}
    assert not long


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_module_keeps_the_house_rules(path):
    tree = ast.parse(path.read_text())
    breaches = [] if ast.get_docstring(tree) else ["opens without a docstring"]
    for node in functions(tree):
        length = (node.end_lineno or 0) - node.lineno + 1
        if length > LONGEST_FUNCTION:
            breaches.append(f"{node.name}:{node.lineno} has {length} lines")
        if node.returns is None:
            breaches.append(f"{node.name}:{node.lineno} does not say what it returns")
    for node in public_functions(tree):
        if not ast.get_docstring(node) and not is_overload(node):
            breaches.append(f"{node.name}:{node.lineno} has no docstring")
        arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
        breaches += [
            f"{node.name}:{node.lineno} does not annotate {argument.arg}"
            for argument in arguments
            if argument.annotation is None and argument.arg not in {"self", "cls"}
        ]
    assert not breaches, name_of(path)


def test_imports_keep_their_direction():
    command = [Path(sys.executable).with_name("lint-imports"), "--no-cache"]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout
