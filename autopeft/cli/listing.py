"""`autopeft list`: what is known by name, with a line about each."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from autopeft.cli.shown import safe
from autopeft.cli.tables import console, show_facts
from autopeft.errors import AutopeftError, suggest


def run_list(what: str, as_json: bool) -> None:
    """Print names and descriptions of one kind of thing."""
    if what not in KINDS:
        raise AutopeftError(f"list: unknown kind '{what}'; {suggest(what, (*KINDS, 'runs'))}")
    if what == "methods":
        from autopeft.cli.methods_list import print_methods

        print_methods(as_json)
        return
    found = {name: _Entry.of(entry) for name, entry in KINDS[what]().items()}
    if as_json:
        print(json.dumps([{"name": name, **asdict(entry)} for name, entry in found.items()], indent=2))
        return
    rows, common = [], _common([*found.values()])
    for name, entry in found.items():
        rows.append((f"[bold]{safe(name)}[/]", safe(entry.description)))
        rows += _lines({option: text for option, text in entry.options.items() if option not in common})
    show_facts(console(), rows + ([("[bold]all of them[/]", ""), *_lines(common)] if common else []))


def _lines(options: Mapping[str, str]) -> list[tuple[str, str]]:
    return [("", f"  {option}: {safe(text)}") for option, text in options.items()]


def _common(entries: Sequence[_Entry]) -> dict[str, str]:
    """Options that all of several entries have, with the same default and description: they are told once."""
    first, *others = entries
    return {
        option: text
        for option, text in first.options.items()
        if others and all(other.options.get(option) == text for other in others)
    }


@dataclass(frozen=True)
class _Entry:
    """What is told of a name; `options` by their keys in an experiment."""

    description: str
    options: Mapping[str, str]

    @classmethod
    def of(cls, entry: str | type[BaseModel]) -> _Entry:
        if isinstance(entry, str):
            return cls(entry, {})
        options = {
            field.alias or name: "; ".join(filter(None, (_default(field), field.description)))
            for name, field in entry.model_fields.items()
        }
        return cls(str(getattr(entry, "description", "")), options)


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    return "optional" if value is None else json.dumps(value, default=str)


def _tuners() -> dict[str, str]:
    from autopeft.peft_tuners.verdicts import all_verdicts

    return {
        f"peft:{v.tuner}": f"size: {v.size_field}; at {' and '.join(v.places)}" if v.works else f"refused: {v.reason}"
        for v in all_verdicts()
    }


def _readouts() -> dict[str, str]:
    from autopeft.readouts import READOUTS

    return {name: f"{r.description}; metrics: {', '.join(r.metrics())}" for name, r in READOUTS.all().items()}


def _tasks() -> Mapping[str, type[BaseModel]]:
    from autopeft.tasks import TASKS

    return TASKS.all()


def _formats() -> dict[str, str]:
    from autopeft.formats import FORMATS

    return {name: f"{format.description}; scored: {format.score}" for name, format in FORMATS.all().items()}


def _samplers() -> Mapping[str, type[BaseModel]]:
    from autopeft.searching.samplers import SAMPLERS

    return SAMPLERS.all()


def _stopping() -> Mapping[str, type[BaseModel]]:
    from autopeft.searching.stopping import STOPPING

    return STOPPING.all()


def _costs() -> dict[str, str]:
    from autopeft.costs import COSTS

    return {name: cost.description for name, cost in COSTS.all().items()}


def _metrics() -> dict[str, str]:
    from autopeft.metrics import METRICS

    return {name: f"{m.description}; of {m.labels}" for name, m in METRICS.all().items()}


def _runners() -> Mapping[str, type[BaseModel]]:
    from autopeft.runners import RUNNERS

    return RUNNERS.all()


def _spaces() -> dict[str, str]:
    from autopeft.config import read_yaml
    from autopeft.resources import shipped
    from autopeft.space_spec import is_preset

    found = {name: str(read_yaml(path).get("description", "")) for name, path in shipped("search_spaces").items()}
    return {name: f"one hybrid: {said}" if is_preset(name) else said for name, said in found.items()}


def _controls() -> dict[str, str]:
    from autopeft.config import read_yaml
    from autopeft.resources import shipped

    files = {name: read_yaml(path) for name, path in shipped("search_spaces/controls").items()}
    also = {name: f"; also: {name}" if "name" in data else "" for name, data in files.items()}
    return {str(data.get("name", name)): f"{data['description']}{also[name]}" for name, data in files.items()}


def _baselines() -> dict[str, str]:
    from autopeft.baselines import BASELINES

    return {name: f"{b.description}; parameters: {b.formula}" for name, b in BASELINES.all().items()}


def _experiments() -> dict[str, str]:
    from autopeft.config import read_yaml
    from autopeft.resources import shipped

    return {name: str(read_yaml(path).get("description", "")) for name, path in shipped("experiments").items()}


def _models() -> dict[str, str]:
    from autopeft.anatomy import FAMILIES
    from autopeft.models import BUILT_IN

    built_in = {name: f"{b.description} ({b.install})" for name, b in BUILT_IN.items()}
    of_texts = sorted(name for name, row in FAMILIES.items() if not row.images)
    return built_in | {"<folder or hub id>": f"of a supported family: {', '.join(of_texts)}"}


KINDS: Mapping[str, Callable[[], Mapping[str, Any]]] = {
    "methods": dict,
    "tuners": _tuners,
    "tasks": _tasks,
    "formats": _formats,
    "readouts": _readouts,
    "samplers": _samplers,
    "stopping": _stopping,
    "spaces": _spaces,
    "controls": _controls,
    "baselines": _baselines,
    "experiments": _experiments,
    "models": _models,
    "costs": _costs,
    "metrics": _metrics,
    "runners": _runners,
}
