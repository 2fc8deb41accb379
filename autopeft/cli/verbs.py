"""What the verbs do."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

from autopeft.cli.shown import safe
from autopeft.cli.tables import console, show
from autopeft.experiment import Experiment, changed, needing
from autopeft.launch import RUNS, launch
from autopeft.progress import progress_for
from autopeft.result import SearchResult, evaluate
from autopeft.searching.tables import columns, number, sentences

_out = console()


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
    return changed(experiment, given, "command line") if given else experiment


def show_front(run: Path, as_json: bool) -> None:
    """`autopeft front`."""
    result = SearchResult.open(run)
    if as_json:
        print(json.dumps(result.front.to_json(), indent=2))
    else:
        _show(result)


def run_evaluate(folder: Path, on: Path | None, model: str | None, trust_remote_code: bool, as_json: bool) -> None:
    """`autopeft evaluate`."""
    metrics = evaluate(folder, on=on, model=model, trust_remote_code=trust_remote_code)
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
    show(_out, f"Pareto front of {result.experiment.name}", columns(front, front.points))
    if off := front.confirmed_off_front:
        _out.print()
        show(_out, "Trained with other seeds, and not on the front", columns(front, off))
    if front.verdict.confirmed:
        _out.print(
            "[dim]±: standard deviation over seeds; p: probability of being on the true front[/]", soft_wrap=True
        )
    ended = ", ".join(f"{sum(e.status == s for e in evaluations)} {s}" for s in ("failed", "stopped"))
    limits = ", ".join(f"{safe(name)} <= {number(limit)}" for name, limit in front.limits.items()) or "no budget"
    head = next((e.metrics["head_params"] for e in evaluations if "head_params" in e.metrics), 0)
    _out.print(
        f"{len(evaluations)} candidates ({ended}); {limits}; the head's {head:,.0f} parameters are apart. "
        "Selected on validation; test scores are reported only.",
        soft_wrap=True,
    )
    for name, signature in result.signatures.items():
        _out.print(f"{safe(name)}: {safe(signature)}", soft_wrap=True, style="dim")
    for sentence in (*sentences(front), *filter(None, [unfinished(result)])):
        _out.print(safe(sentence), soft_wrap=True)


def unfinished(result: SearchResult) -> str | None:
    """Of a search that has not come to its end: how far it is, and the command that goes on; None of another one."""
    if result.finished:
        return None
    experiment, run, known = result.experiment, result.run_dir, len(result.evaluations)
    command = ["autopeft", "search", str(run / "experiment.yaml"), "--out", str(run)]
    if experiment.trust_remote_code:
        command.append("--trust-remote-code")
    of = f"{known:,} candidates" if experiment.trials is None else f"{known:,} of {experiment.trials:,} candidates"
    rest = (
        ", and the last steps (other seeds, test scores) are not done"
        if known >= (experiment.trials or known + 1)
        else ""
    )
    return f"Not finished: {of}{rest}. If it is not running now, it goes on with: {shlex.join(command)}"


def _next_steps(out: Path) -> None:
    run = shlex.quote(str(out))
    _out.print("\nNext:", style="bold")
    for command in (
        f"autopeft export {run} --pick best --to out/best",
        "autopeft evaluate out/best",
        f"autopeft ui {run}",
    ):
        _out.print(f"  {safe(command)}", soft_wrap=True)
