"""The house keeps its shape: imports go one way, and files, classes and functions stay small."""

from __future__ import annotations

import ast
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

import autopeft

ROOT = Path(autopeft.__file__).parent
MODULES = sorted(p for p in ROOT.rglob("*.py") if "_shipped" not in p.parts)

#: A room may import from rooms above it in this list, and from its own.
FLOORS: list[set[str]] = [
    {"doing", "secrets", "weight_names", "wording", "writing"},
    {"errors", "on_import"},
    {"axes", "cells", "doors", "hub", "markup", "resources", "trust"},
    {"plugins"},
    {"registry"},
    {"checkpoint", "config", "fingerprint"},
    {"anatomy", "formats", "metrics"},
    {"readouts"},
    {"model_checks", "peft_tuners", "quantising"},
    {"methods"},
    {"grid"},
    {"hybrid"},
    {"folding"},
    {"candidate", "costs", "attention", "models", "adapter_keys", "knapsack"},
    {"attaching", "cutting", "packing_bits", "snippet", "merging"},
    {"peft_layer"},
    {"peft_tuner"},
    {"dimensions", "servable", "tasks"},
    {"training_spec"},
    {"space_spec"},
    {"given", "slots"},
    {"space"},
    {"budget", "serving"},
    {"generating"},
    {"engine"},
    {"recipe"},
    {"baselines", "searching"},
    {"runners", "tracking", "exporting"},
    {"after"},
    {"experiment", "space_remarks"},
    {"watching"},
    {"session", "run_folder", "progress"},
    {"recording", "task_facts"},
    {"export_folder", "reporting"},
    {"begin", "confirming", "exported"},
    {"result"},
    {"phases", "scoring"},
    {"browsing", "comparing", "following", "launch"},
    {"cli"},
]
LEVEL = {room: i for i, rooms in enumerate(FLOORS) for room in rooms}

#: Larger than the rule, with the reason.
LARGE_CLASSES = {
    "Readout": "one declaration with its defaults, from labels to scores: a plug-in sees all of it in one place",
    "ParetoFront": "one value with its views; the maths stands in dominance.py, the pictures in plots.py",
    "SearchSpace": "one value: point <-> candidate in both directions belong together",
}


def _name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


NAMES = {_name(p) for p in MODULES}


@cache
def _imports(path: Path) -> frozenset[str]:
    """Modules of the package that a file imports when it runs, anywhere in it (not for type checking only)."""
    found: set[str] = set()
    todo: list[ast.AST] = [ast.parse(path.read_text())]
    while todo:
        node = todo.pop()
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            todo += node.orelse
            continue
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "autopeft":
            base = node.module.removeprefix("autopeft").lstrip(".")
            for alias in node.names:
                inner = f"{base}.{alias.name}".lstrip(".")
                found.add(inner if inner in NAMES else base)
        if isinstance(node, ast.Import):
            found |= {a.name.removeprefix("autopeft").lstrip(".") for a in node.names if a.name.startswith("autopeft")}
        todo += list(ast.iter_child_nodes(node))
    return frozenset(found - {""})


@pytest.mark.parametrize("path", MODULES, ids=_name)
def test_imports_go_down_the_floors_only(path: Path) -> None:
    room = _name(path).split(".")[0]
    if room in ("", "__main__"):
        return
    assert room in LEVEL, f"'{room}' stands on no floor: add it to FLOORS"
    for imported in _imports(path):
        other = imported.split(".")[0]
        assert other == room or LEVEL[other] < LEVEL[room], f"{_name(path)} imports {imported}, which is not below it"


def test_there_is_no_cycle_between_modules() -> None:
    graph = {_name(p): _imports(p) for p in MODULES}
    done: set[str] = set()

    def visit(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, " -> ".join([*path, module])
        if module in done or module not in graph:
            return
        for imported in graph[module]:
            visit(imported, (*path, module))
        done.add(module)

    for module in graph:
        visit(module, ())


@pytest.mark.parametrize("path", MODULES, ids=_name)
def test_files_classes_and_functions_are_small(path: Path) -> None:
    text = path.read_text()
    assert len(text.splitlines()) <= 300, f"{path.name} has {len(text.splitlines())} lines"
    for node in ast.walk(ast.parse(text)):
        length = getattr(node, "end_lineno", 0) - getattr(node, "lineno", 0) + 1
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            assert length <= 40, f"{path.name}: {node.name} has {length} lines"
        if isinstance(node, ast.ClassDef):
            assert length <= 150 or node.name in LARGE_CLASSES, f"{path.name}: class {node.name} has {length} lines"


def test_every_floor_is_in_use() -> None:
    assert {_name(p).split(".")[0] for p in MODULES} - {"", "__main__"} == set(LEVEL)


def test_importing_and_help_bring_nothing_heavy() -> None:
    code = """
import sys
import autopeft, autopeft.cli.app
heavy = {"torch", "ray", "mlflow", "transformers", "peft", "optuna", "datasets", "pandas"} & set(sys.modules)
assert not heavy, heavy
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_public_names_are_all_there() -> None:
    for name in autopeft.__all__:
        value = getattr(autopeft, name)
        assert not isinstance(value, type(sys)), f"autopeft.{name} is a module: a module of that name hides it"
