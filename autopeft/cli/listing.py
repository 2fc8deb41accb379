"""`autopeft list`: what is known by name, with a line about each."""

from __future__ import annotations

import json
from collections.abc import Callable

from rich.console import Console
from rich.table import Table

from autopeft.errors import AutopeftError, suggest


def run_list(what: str, as_json: bool) -> None:
    """Print names and descriptions of one kind of thing."""
    if what not in _KINDS:
        raise AutopeftError(f"list: unknown kind '{what}'; {suggest(what, _KINDS)}")
    found = _KINDS[what]()
    if as_json:
        print(json.dumps([{"name": name, "description": text} for name, text in found.items()], indent=2))
        return
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    for name, text in found.items():
        table.add_row(f"[bold]{name}[/]", text)
    Console(highlight=False).print(table)


def _methods() -> dict[str, str]:
    from autopeft.methods import METHODS

    return {name: f"{m.description}; size: {m.size}" for name, m in METHODS.all().items()}


def _tasks() -> dict[str, str]:
    from autopeft.tasks import TASKS

    return {name: task.description for name, task in TASKS.all().items()}


def _samplers() -> dict[str, str]:
    from autopeft.searching.samplers import SAMPLERS

    return {name: sampler.description for name, sampler in SAMPLERS.all().items()}


def _stopping() -> dict[str, str]:
    from autopeft.searching.stopping import STOPPING

    return {name: rule.description for name, rule in STOPPING.all().items()}


def _costs() -> dict[str, str]:
    from autopeft.costs import COSTS

    return {name: cost.description for name, cost in COSTS.all().items()}


def _runners() -> dict[str, str]:
    from autopeft.runners import RUNNERS

    return {name: runner.description for name, runner in RUNNERS.all().items()}


def _spaces() -> dict[str, str]:
    from autopeft.config import read_yaml
    from autopeft.resources import shipped

    return {name: str(read_yaml(path).get("description", "")) for name, path in shipped("search_spaces").items()}


def _experiments() -> dict[str, str]:
    from autopeft.config import read_yaml
    from autopeft.resources import shipped

    return {name: str(read_yaml(path).get("description", "")) for name, path in shipped("experiments").items()}


def _models() -> dict[str, str]:
    from autopeft.anatomy import FAMILIES
    from autopeft.models import BUILT_IN

    built_in = {name: f"{b.description} ({b.install})" for name, b in BUILT_IN.items()}
    return built_in | {"<folder or hub id>": f"of a supported family: {', '.join(sorted(FAMILIES))}"}


_KINDS: dict[str, Callable[[], dict[str, str]]] = {
    "methods": _methods,
    "tasks": _tasks,
    "samplers": _samplers,
    "stopping": _stopping,
    "spaces": _spaces,
    "experiments": _experiments,
    "models": _models,
    "costs": _costs,
    "runners": _runners,
}
