"""What the verbs do."""

from __future__ import annotations

import json
from pathlib import Path

from autopeft.cli.fronts import advise, show_result
from autopeft.cli.heavy import at_work
from autopeft.cli.shown import safe
from autopeft.cli.tables import console
from autopeft.experiment import Experiment, needing
from autopeft.launch import RUNS, launch
from autopeft.plugins import command_line
from autopeft.progress import progress_for
from autopeft.result import evaluate
from autopeft.searching.highlights import export_command

_out = console()


def run_search(
    experiment: Experiment,
    out: Path | None,
    quiet: bool,
    trust_remote_code: bool,
    as_json: bool,
) -> None:
    """`autopeft search`."""
    experiment, out = needing(experiment, trust_remote_code), out or RUNS / experiment.name
    result = launch(experiment, out, progress_for(experiment, quiet or as_json), trust_remote_code)
    if as_json:
        print(json.dumps(result.front.to_json(), indent=2))
    elif not quiet:
        show_result(result)
        advise(result, trust_remote_code)
        _next_steps(out)


def run_evaluate(folder: Path, on: Path | None, model: str | None, trust_remote_code: bool, as_json: bool) -> None:
    """`autopeft evaluate`."""
    with at_work("measuring the export", as_json):
        metrics = evaluate(folder, on=on, model=model, trust_remote_code=trust_remote_code)
    if as_json:
        print(json.dumps(metrics, indent=2))
        return
    for name, value in metrics.items():
        _out.print(f"{safe(name)}  [bold]{value:.4f}[/]")


def say(text: str) -> None:
    """A line of the command's own."""
    _out.print(text, soft_wrap=True, markup=False)


def _next_steps(out: Path) -> None:
    _out.print("\nNext:", style="bold")
    for command in (
        export_command(out, "best"),
        command_line("evaluate", "out/best"),
        command_line("report", out),
        command_line("ui", out),
    ):
        _out.print(f"  {safe(command)}", soft_wrap=True)
