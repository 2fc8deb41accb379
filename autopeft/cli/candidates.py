"""`autopeft show`: one candidate whole."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

from autopeft.cli.shown import safe
from autopeft.cli.tables import console
from autopeft.reporting.candidate import course_of, score_rows
from autopeft.result import SearchResult
from autopeft.wording import duration, number, spaced

_out = console(80)
#: Heights of a course in one line.
_BARS = "▁▂▃▄▅▆▇█"


def run_show(run: Path, pick: str, as_json: bool) -> None:
    """Print what is known of it."""
    result = SearchResult.open(run)
    facts = result.candidate(pick)
    if as_json:
        print(json.dumps(facts, indent=2))
        return
    _out.print(f"Candidate [bold]{safe(facts['key'])}[/] of {safe(result.experiment.name)}", soft_wrap=True)
    summary = Table.grid(padding=(0, 2, 0, 0))
    for name, said in _summary(facts):
        summary.add_row(f"[dim]{name}[/]", safe(said))
    _out.print(summary)
    grid = facts["grid"]
    if len(grid["columns"]) > 1:
        _table("Layers by methods", grid["columns"], grid["rows"], left=True)
    _table("Scores", ("score", "searched", "mean", "sd", "seeds"), list(score_rows(facts)))
    _courses(result, facts)
    _seeds(result, facts)
    _costs(facts)
    _commands(facts)


def _summary(facts: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    yield "is", facts["words"]
    yield "from", facts["role"]
    if len(facts["recipe"]) > 1:
        yield "steps", "; then ".join(facts["recipe"])
    where = "on it" if facts["on_front"] else "not on it"
    sure = "" if facts["p_front"] is None else f"; probability of being on the true one {facts['p_front']:.2f}"
    yield "front", f"{where}{', ' + facts['pick'] if facts['pick'] else ''}{sure}"
    epochs = f"{facts['epochs']} of {facts['of_epochs']} epochs"
    yield "ended", f"{facts['status']} after {epochs}, {duration(facts['seconds'])}, seed {facts['seed']}"
    if facts["error"]:
        yield "error", facts["error"]
    yield "training", ", ".join(f"{name} {value:.4g}" for name, value in facts["training"].items())
    if facts["same_key"]:
        yield "again as", ", ".join(f"number {number}" for number in facts["same_key"])


def _courses(result: SearchResult, facts: dict[str, Any]) -> None:
    """The score and the losses after each epoch."""
    if len(facts["curve"]) < 2:
        return
    names = dict.fromkeys((result.front.score.metric, "loss", "train_loss"))
    rows = []
    for name in names:
        values = [v for epoch in facts["curve"] if (v := epoch.get(name)) is not None]
        if values:
            rows.append([spaced(name), _line(values), course_of(facts, name)])
    _table("By epoch", ("metric", "", "values"), rows, left=True)


def _line(values: Sequence[float]) -> str:
    """A course as bars."""
    low, span = min(values), max(values) - min(values)
    return "".join(_BARS[round((v - low) / span * (len(_BARS) - 1)) if span else 0] for v in values)


def _seeds(result: SearchResult, facts: Mapping[str, Any]) -> None:
    """Each training that was confirmed."""
    if not facts["runs"]:
        return
    score = result.front.score.metric
    rows = [
        [
            str(run["seed"]),
            run["status"],
            *(number(run["metrics"].get(name)) for name in (score, f"test_{score}")),
            f"{run['seconds']:.1f}",
        ]
        for run in facts["runs"]
    ]
    _table("By seed", ("seed", "ended", score, "test", "seconds"), rows)


def _costs(facts: Mapping[str, Any]) -> None:
    rows = [
        [
            spaced(name),
            number(cost["value"]),
            "" if cost["limit"] is None else f"{number(cost['limit'])} ({cost['value'] / (cost['limit'] or 1):.0%})",
            cost["unit"],
        ]
        for name, cost in facts["costs"].items()
    ]
    _table("Costs", ("cost", "value", "limit", "unit"), rows)


def _commands(facts: Mapping[str, Any]) -> None:
    if not facts["commands"]:
        _out.print("\nOnly what was trained to its end, within the limits, can be exported.", style="dim")
        return
    kept = "its weights are kept" if facts["weights_kept"] else "it is trained again, as its weights were not kept"
    _out.print(f"\nTake it home ({kept}):", style="bold")
    for command in facts["commands"]:
        _out.print(f"  {safe(command)}", soft_wrap=True)


def _table(title: str, headers: Sequence[str], rows: Sequence[Sequence[str]], left: bool = False) -> None:
    """The first column holds names; of the others' cells long ones go on in a next line."""
    _out.print(f"\n[bold]{safe(title)}[/]")
    table = Table(header_style="dim", box=SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    for i, header in enumerate(headers):
        table.add_column(safe(header), justify="left" if left or not i else "right", overflow="fold")
    for row in rows:
        table.add_row(*map(safe, row))
    _out.print(table)
