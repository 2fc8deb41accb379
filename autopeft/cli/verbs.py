"""What the verbs do."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from rich.console import Console
from rich.table import Table

from autopeft.cli.shown import safe
from autopeft.errors import AutopeftError, suggest
from autopeft.experiment import Experiment, needing
from autopeft.launch import RUNS, launch
from autopeft.progress import progress_for
from autopeft.result import SearchResult, evaluate, export
from autopeft.searching.tables import cells, number, sentences

if TYPE_CHECKING:
    from autopeft.exporting import Format

_out = Console(highlight=False)
if not _out.is_terminal:
    # Rich assumes 80 columns where there is no terminal, and would break the tables of a log file.
    _out = Console(highlight=False, width=140)


def run_search(
    name: str,
    out: Path | None,
    trials: int | None,
    time_limit: str | None,
    workers: int | None,
    warm_start: Path | None,
    quiet: bool,
    trust_remote_code: bool,
    as_json: bool,
) -> None:
    """`autopeft search`."""
    experiment = with_overrides(Experiment.load(name), trials, time_limit, workers, warm_start)
    experiment, out = needing(experiment, trust_remote_code), out or RUNS / experiment.name
    result = launch(experiment, out, progress_for(experiment, quiet or as_json), trust_remote_code)
    if as_json:
        print(json.dumps(result.front.to_json(), indent=2))
    elif not quiet:
        _show(result)
        _next_steps(out)


def with_overrides(
    experiment: Experiment,
    trials: int | None,
    time_limit: str | None,
    workers: int | None,
    warm_start: Path | None = None,
) -> Experiment:
    """The experiment with what the command line gave in its place."""
    given: dict[str, Any] = {"trials": trials, "time_limit": time_limit}
    given["warm_start"] = None if warm_start is None else str(warm_start.absolute())
    if workers is not None:
        given["runner"] = {"name": experiment.runner.name, **experiment.runner.model_dump(), "workers": workers}
    given = {k: v for k, v in given.items() if v is not None}
    return Experiment.of({**experiment.resolved(), **given}, "command line") if given else experiment


def show_front(run: Path, as_json: bool) -> None:
    """`autopeft front`."""
    result = SearchResult.open(run)
    if as_json:
        print(json.dumps(result.front.to_json(), indent=2))
    else:
        _show(result)


def run_export(
    run: Path, pick: str, to: Path, max_params: int | None, format: str, seed: int | None, trust_remote_code: bool
) -> None:
    """`autopeft export`."""
    if format not in _FORMATS:
        raise AutopeftError(f"--format: unknown format '{format}'; {suggest(format, _FORMATS)}")
    chosen = cast("Format", format) if format != "auto" else None
    folder = export(run, pick, to, max_params, format=chosen, seed=seed, trust_remote_code=trust_remote_code)
    record = json.loads((folder / "hybrid.json").read_text(encoding="utf-8"))
    kind = {
        "lora": "stock PEFT LoRA",
        "lora-padded": "stock PEFT LoRA of one rank",
        "peft": f"stock PEFT, type {record['peft_type']}",
        "autopeft": "PEFT type AUTOPEFT",
    }[record["format"]]
    _out.print(f"wrote candidate [bold]{safe(record['key'])}[/] to {safe(str(folder))} ({kind})", soft_wrap=True)
    _out.print(f"measure it again:  autopeft evaluate {safe(shlex.quote(str(folder)))}", soft_wrap=True)


_FORMATS = ("auto", "lora", "lora-padded", "peft", "autopeft")


def run_evaluate(folder: Path, on: Path | None, trust_remote_code: bool, as_json: bool) -> None:
    """`autopeft evaluate`."""
    metrics = evaluate(folder, on=on, trust_remote_code=trust_remote_code)
    if as_json:
        print(json.dumps(metrics, indent=2))
        return
    for name, value in metrics.items():
        _out.print(f"{safe(name)}  [bold]{value:.4f}[/]")


def say(text: str) -> None:
    """A line of the command's own."""
    _out.print(text, soft_wrap=True, markup=False)


def _show(result: SearchResult) -> None:
    front, evaluations = result.front, result.evaluations
    headers, rows = cells(front)
    table = Table(title=f"Pareto front of {result.experiment.name}", title_justify="left", header_style="bold")
    for header in headers:
        table.add_column(
            safe(header), justify="left" if header == "key" or header.startswith("hybrid") else "right", overflow="fold"
        )
    for row in rows:
        table.add_row(*map(safe, row))
    _out.print(table)
    ended = ", ".join(f"{sum(e.status == s for e in evaluations)} {s}" for s in ("failed", "stopped"))
    limits = ", ".join(f"{safe(name)} <= {number(limit)}" for name, limit in front.limits.items()) or "no budget"
    head = next((e.metrics["head_params"] for e in evaluations if "head_params" in e.metrics), 0)
    _out.print(
        f"{len(evaluations)} candidates ({ended}); {limits}; the head's {head:,.0f} parameters are apart. "
        "Selected on validation; test scores are reported only.",
        soft_wrap=True,
    )
    for sentence in sentences(front):
        _out.print(safe(sentence), soft_wrap=True)


def _next_steps(out: Path) -> None:
    run = shlex.quote(str(out))
    _out.print("\nNext:", style="bold")
    for command in (
        f"autopeft export {run} --pick best --to out/best",
        "autopeft evaluate out/best",
        f"autopeft ui {run}",
    ):
        _out.print(f"  {safe(command)}", soft_wrap=True)
