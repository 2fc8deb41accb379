"""What the verbs do."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from autopeft.errors import AutopeftError
from autopeft.experiment import Experiment
from autopeft.launch import RUNS, launch
from autopeft.progress import progress_for
from autopeft.result import SearchResult, evaluate, export
from autopeft.searching.tables import cells, number

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
    as_json: bool,
) -> None:
    """`autopeft search`."""
    experiment = with_overrides(Experiment.load(name), trials, time_limit, workers, warm_start)
    out = out or RUNS / experiment.name
    result = launch(experiment, out, progress_for(experiment, quiet or as_json))
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


def run_export(run: Path, pick: str, to: Path, max_params: int | None) -> None:
    """`autopeft export`."""
    folder = export(run, pick, to, max_params)
    record = json.loads((folder / "hybrid.json").read_text(encoding="utf-8"))
    kind = "stock PEFT LoRA" if record["peft_type"] == "LORA" else "PEFT type AUTOPEFT"
    _out.print(f"wrote candidate [bold]{record['key']}[/] to {folder} ({kind})", soft_wrap=True)
    _out.print(f"measure it again:  autopeft evaluate {shlex.quote(str(folder))}", soft_wrap=True)


def run_evaluate(folder: Path, as_json: bool) -> None:
    """`autopeft evaluate`."""
    metrics = evaluate(folder)
    if as_json:
        print(json.dumps(metrics, indent=2))
        return
    for name, value in metrics.items():
        _out.print(f"{name}  [bold]{value:.4f}[/]")


def run_ui(run: Path | None, port: int) -> None:
    """`autopeft ui`."""
    import os
    import subprocess

    from autopeft.tracking.mlflow_store import MlflowTracking, check_port, ui_command

    run_dir = (run or RUNS / "any").absolute()
    tracking = SearchResult.open(run).experiment.tracking if run else MlflowTracking()
    if not isinstance(tracking, MlflowTracking):
        raise AutopeftError(f"{run}: this search was not tracked by MLflow (tracking: {tracking.name})")
    command, variables = ui_command(tracking.place(run_dir), port)
    check_port(port)
    _out.print(f"MLflow on http://127.0.0.1:{port} (Ctrl-C ends it)")
    status = subprocess.run(command, check=False, env={**os.environ, **variables}).returncode
    if status > 0:
        raise AutopeftError(f"MLflow's pages ended with status {status}; its own words are above")


def _show(result: SearchResult) -> None:
    front, evaluations = result.front, result.evaluations
    headers, rows = cells(front)
    table = Table(title=f"Pareto front of {result.experiment.name}", title_justify="left", header_style="bold")
    for header in headers:
        table.add_column(
            header, justify="left" if header == "key" or header.startswith("hybrid") else "right", overflow="fold"
        )
    for row in rows:
        table.add_row(*row)
    _out.print(table)
    ended = ", ".join(f"{sum(e.status == s for e in evaluations)} {s}" for s in ("failed", "stopped"))
    limits = ", ".join(f"{name} <= {number(limit)}" for name, limit in front.limits.items()) or "no budget"
    head = next((e.metrics["head_params"] for e in evaluations if "head_params" in e.metrics), 0)
    _out.print(
        f"{len(evaluations)} candidates ({ended}); {limits}; the head's {head:,.0f} parameters are apart. "
        "Selected on validation; test scores are reported only.",
        soft_wrap=True,
    )


def _next_steps(out: Path) -> None:
    run = shlex.quote(str(out))
    _out.print("\nNext:", style="bold")
    for command in (
        f"autopeft export {run} --pick best --to out/best",
        "autopeft evaluate out/best",
        f"autopeft ui {run}",
    ):
        _out.print(f"  {command}", soft_wrap=True)
