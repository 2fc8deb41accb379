"""The sections of a report that are about the search itself: what was asked, on what, and how to do it again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from autopeft.config import dump_yaml
from autopeft.costs import COSTS, amount
from autopeft.reporting.document import Block, Code, Items, More, Section, Table, Text
from autopeft.reporting.learning import setup_in
from autopeft.reporting.searched import Searched
from autopeft.searching.confirming.records import runs_in
from autopeft.searching.tables import marks
from autopeft.wording import duration, number, spaced


def asked(run: Searched) -> Section:
    """Model, data, space, limits and training."""
    blocks: list[Block] = [_pairs(_asked(run)), More("Training and search", [_pairs(_settings(run))])]
    if run.facts and run.facts.remarks:
        blocks += [Text("What to know of the data:"), Items(run.facts.remarks)]
    return Section("What was asked", blocks)


def _pairs(said: Iterator[tuple[str, str]]) -> Table:
    return Table(("what", "value"), [[name, value] for name, value in said if value], frozenset({0, 1}))


def _asked(run: Searched) -> Iterator[tuple[str, str]]:
    experiment, front = run.experiment, run.front
    data = experiment.resolved()
    yield "model", experiment.model + (f", {_flat(data['backbone'])}" if "backbone" in data else "")
    yield "task", _flat(data["task"])
    if run.facts:
        yield "classes", ", ".join(run.facts.labels)
        yield "splits", run.facts.splits
    space = data["space"]
    yield "space", space if isinstance(space, str) else f"its own, of {', '.join(space.get('blocks', {}))}"
    yield "objectives", ", ".join(f"{o.metric} ({o.direction})" for o in front.objectives)
    yield "budget", ", ".join(f"{n} ≤ {amount(n, limit)}" for n, limit in front.limits.items()) or "none"
    yield "trials", number(experiment.trials)
    yield "time limit", duration(experiment.time_limit) if experiment.time_limit else ""


def _settings(run: Searched) -> Iterator[tuple[str, str]]:
    data = run.experiment.resolved()
    for name in ("training", "sampler", "stopping", "controls", "descent", "confirm", "generation", "evaluate_on"):
        yield spaced(name), _flat(data.get(name, ""))


def costs(run: Searched) -> Section:
    """What the search took, and what its candidates cost."""
    evaluations, fresh = run.evaluations, [r for each in runs_in(run.remembered).values() for r in each]
    ended = {status: sum(e.status == status for e in evaluations) for status in ("done", "stopped", "failed")}
    searched, seeds = sum(e.seconds for e in evaluations), sum(r.seconds for r in fresh)
    said = [f"{len(evaluations)} candidates: {', '.join(f'{count} {status}' for status, count in ended.items())}."]
    said.append(f"{duration(searched)} of training and validation for them, by all workers together.")
    if fresh:
        said.append(f"{duration(seeds)} for {len(fresh)} trainings with other seeds.")
    if span := run.stored.span:
        said.append(f"From {span[0]} to {span[1]}, with what pauses there were.")
    picks = [(name, e) for e in run.front.points if (name := marks(run.front).get(e.number))]
    names = list(dict.fromkeys(n for _, e in picks for n in _costs_of(e.metrics)))
    rows = [[spaced(n), *(amount(n, e.metrics.get(n)) for _, e in picks)] for n in names]
    blocks: list[Block] = [Items(said)]
    return Section(
        "What it cost", [*blocks, *([Table(("cost", *(n for n, _ in picks)), rows, frozenset({0}))] if rows else [])]
    )


def _costs_of(metrics: Mapping[str, float]) -> list[str]:
    return [name for name in (*COSTS.names(), "head_params") if name in metrics]


def environment(run: Searched) -> Section:
    """The machine and the libraries that scores depend on."""
    known = dict(setup_in(run.folder, run.remembered))
    tried = known.pop("milliseconds", {})
    rows = [[spaced(name), _shown(value)] for name, value in known.items()]
    rows += [[f"step, {name}", f"{value:.1f} ms"] for name, value in dict(tried).items()]
    rows += [[f"{name} (when it began)", str(value)] for name, value in (run.remembered("versions") or {}).items()]
    return Section("Environment", [Table(("what", "value"), rows, frozenset({0, 1}))] if rows else [])


def again(run: Searched) -> Section:
    """Commands to reproduce the search, and to take its candidates home."""
    trust = " --trust-remote-code" if run.experiment.trust_remote_code else ""
    home = [
        run.command("export", "--pick", "best", "--to", "out/best") + trust,
        "autopeft evaluate out/best" + trust,
        "autopeft predict out/best texts.txt" + trust,
        run.command("front", "--all"),
    ]
    file = dump_yaml(run.experiment.resolved())
    return Section(
        "Reproduce and export",
        [
            Text("The same search, from the file below:"),
            Code(f"autopeft search experiment.yaml --out runs/again{trust}"),
            Text("Its best candidate; --pick takes knee and the keys above too:"),
            Code("\n".join(home)),
            More("experiment.yaml", [Code(file, "yaml")]),
        ],
    )


def _flat(value: Any) -> str:
    """Settings on one line."""
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_flat(inner)}" for key, inner in value.items() if inner not in ("", [], {}))
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(_flat, value))}]"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _shown(value: Any) -> str:
    return number(value) if isinstance(value, (int, float)) else str(value)
