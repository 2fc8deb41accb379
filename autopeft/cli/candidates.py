"""`autopeft show`: one candidate whole."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

from autopeft.cli.shown import safe
from autopeft.cli.tables import console, show, show_all, show_facts
from autopeft.reporting.candidate import course_of, score_rows
from autopeft.result import SearchResult
from autopeft.searching.tables import Column
from autopeft.wording import duration, number, spaced

_out = console()
#: Heights of a course in one line.
_BARS = "▁▂▃▄▅▆▇█"


def run_show(run: Path, pick: str, as_json: bool) -> None:
    """Print what is known of it."""
    result = SearchResult.open(run)
    facts = result.candidate(pick)
    if as_json:
        print(json.dumps(facts, indent=2))
        return
    _out.print(
        f"Candidate [bold]#{facts['number']} {safe(facts['key'])}[/] of {safe(result.experiment.name)}", soft_wrap=True
    )
    show_facts(_out, ((f"[dim]{name}[/]", safe(said)) for name, said in _summary(facts)))
    grid = facts["grid"]
    if len(grid["columns"]) > 1:
        _out.print()
        show_all(_out, "Layers by methods", _columns(grid["columns"], grid["rows"], left=True))
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
    if facts["equal_to"] is not None:
        where = f"equal to #{facts['equal_to']}, which stands on it for both"
    sure = "" if facts["p_front"] is None else f"; probability of being on the true one {facts['p_front']:.2f}"
    yield "front", f"{where}{', ' + facts['pick'] if facts['pick'] else ''}{sure}"
    if facts["doubt"]:
        yield "but", facts["doubt"]
    epochs = f"{facts['epochs']} of {facts['of_epochs']} epochs"
    yield "ended", f"{facts['status']} after {epochs}, {duration(facts['seconds'])}, seed {facts['seed']}"
    if facts["error"]:
        yield "error", facts["error"]
    yield "training", ", ".join(f"{name} {value:.4g}" for name, value in facts["training"].items())
    if facts["same_key"]:
        yield "again as", ", ".join(f"#{number}" for number in facts["same_key"])


def _courses(result: SearchResult, facts: dict[str, Any]) -> None:
    """The score and the losses after each epoch."""
    if len(facts["curve"]) < 2:
        return
    names = dict.fromkeys((result.front.score.metric, "loss", "train_loss"))
    table = Table(header_style="bold", box=SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    for header in ("metric", "", "values"):
        # Of many epochs the values go on in a next line.
        table.add_column(header, overflow="fold")
    for name in names:
        values = [v for epoch in facts["curve"] if (v := epoch.get(name)) is not None]
        if values:
            table.add_row(safe(spaced(name)), _line(values), course_of(facts, name))
    _out.print("\nBy epoch", style="italic")
    _out.print(table)


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


def _table(title: str, headers: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    _out.print()
    show(_out, title, _columns(headers, rows))


def _columns(headers: Sequence[str], rows: Sequence[Sequence[str]], left: bool = False) -> list[Column]:
    """The first column holds names; the last ones are the first to go."""
    cells = zip(*rows, strict=True) if rows else ([] for _ in headers)
    return [
        Column(header, list(own), rank=max(0, i - 1), left=left or not i)
        for i, (header, own) in enumerate(zip(headers, cells, strict=True))
    ]
