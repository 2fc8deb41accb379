"""`autopeft front`: the front, and the leaderboard of every candidate."""

from __future__ import annotations

import json
from collections.abc import Sequence
from math import isfinite
from pathlib import Path
from typing import Any

from rich.table import Table

from autopeft.candidate import Evaluation
from autopeft.cli.shown import safe
from autopeft.cli.tables import console, sentence, show
from autopeft.costs import amount
from autopeft.plugins import command_line
from autopeft.result import SearchResult
from autopeft.searching.keys import named, number_of, short_keys
from autopeft.searching.tables import HYBRID, columns, leaderboard, role_of, sentences
from autopeft.wording import counted

#: Of what was learned, so many sentences stand at the end of a search; `autopeft explain` has all.
_MOST_ADVICE = 3
_out = console()


def show_front(run: Path, as_json: bool, layers: bool = False, everything: bool = False) -> None:
    """`autopeft front`."""
    result = SearchResult.open(run)
    if as_json:
        data = {"candidates": _candidates(result)} if everything else result.front.to_json()
        print(json.dumps(data, indent=2))
    elif everything:
        _show_all(result, layers)
    else:
        show_result(result, layers)


def show_result(result: SearchResult, layers: bool = False) -> None:
    """The front, what was confirmed beside it, and what is to be known of both."""
    front = result.front
    _table(result, f"Pareto front of {result.experiment.name}", front.points, layers)
    if off := front.confirmed_off_front:
        _out.print()
        _table(result, "Trained with other seeds, and not on the front", off, layers)
    if front.verdict.confirmed:
        sentence(_out, "±: standard deviation over seeds; p: probability of being on the true front", "dim")
    sentence(_out, _counts(result))
    for name, signature in result.signatures.items():
        sentence(_out, f"{name}: {signature}", "dim")
    for said in (*sentences(front), *filter(None, [unfinished(result)])):
        sentence(_out, said)


def advise(result: SearchResult, trust_remote_code: bool = False) -> None:
    """What the search has learned of its space that is worth a change of it."""
    try:
        found = result.advice(trust_remote_code=trust_remote_code)
    except Exception:
        # The search is over and its result is shown: what can't be said here, `autopeft explain` says with its reason.
        return
    if found:
        _out.print("\nLearned of the space:", style="bold")
        for line in found[:_MOST_ADVICE]:
            sentence(_out, f"- {line[0].upper()}{line[1:]}.")


def unfinished(result: SearchResult) -> str | None:
    """Of a search that has not come to its end: how far it is, and the command that goes on; None of another one."""
    if result.finished:
        return None
    experiment, run, known = result.experiment, result.run_dir, len(result.evaluations)
    trust = ["--trust-remote-code"] if experiment.trust_remote_code else []
    command = command_line("search", run / "experiment.yaml", "--out", run, *trust)
    of = f"{known:,} candidates" if experiment.trials is None else f"{known:,} of {experiment.trials:,} candidates"
    rest = (
        ", and the last steps (other seeds, test scores) are not done"
        if known >= (experiment.trials or known + 1)
        else ""
    )
    return f"Not finished: {of}{rest}. If it is not running now, it goes on with: {command}"


def _show_all(result: SearchResult, layers: bool) -> None:
    ranked, found = leaderboard(result.front)
    title = f"All candidates of {result.experiment.name}, the best first"
    show(_out, title, [column for column in found if not (layers and column.header == HYBRID)])
    if layers:
        _layers(result, ranked)
    keys = short_keys(e.key for e in ranked)
    for e in ranked:
        if e.error:
            sentence(_out, f"{named(e, keys)} failed: {e.error}")
    sentence(_out, _counts(result))
    sentence(_out, f"One of them whole: {command_line('show', result.run_dir, 'KEY')}")


def _table(result: SearchResult, title: str, points: Sequence[Evaluation], layers: bool) -> None:
    found = columns(result.front, points)
    show(_out, title, [column for column in found if not (layers and column.header == HYBRID)])
    if layers:
        _layers(result, points)


def _layers(result: SearchResult, points: Sequence[Evaluation]) -> None:
    """Numbers and keys beside whole hybrids, as many lines as they take."""
    keys = short_keys(e.key for e in result.evaluations)
    table = Table.grid(padding=(0, 2, 0, 0))
    for e in points:
        table.add_row(number_of(e), safe(keys[e.key]), safe(e.candidate.hybrid.describe()))
    _out.print()
    _out.print(table)
    _out.print()


def _counts(result: SearchResult) -> str:
    front, evaluations = result.front, result.evaluations
    ended = ", ".join(f"{sum(e.status == s for e in evaluations)} {s}" for s in ("failed", "stopped"))
    limits = ", ".join(f"{name} <= {amount(name, limit)}" for name, limit in front.limits.items()) or "no budget"
    head = next((e.metrics["head_params"] for e in evaluations if "head_params" in e.metrics), 0)
    apart = f"; the head's {head:,.0f} parameters are apart" if head else ""
    return (
        f"{counted(len(evaluations), 'candidate')} ({ended}); {limits}{apart}. "
        "Selected on validation; test scores are reported only."
    )


def _candidates(result: SearchResult) -> list[dict[str, Any]]:
    """All candidates as data, in the order of the leaderboard."""
    front, on = result.front, {e.number for e in result.front.points}
    return [
        {
            "number": e.number,
            "status": e.status,
            "on_front": e.number in on,
            "role": role_of(front, e),
            "seconds": e.seconds,
            "error": e.error,
            **front.point_to_json(e),
            # What a failed one has may be no number, and JSON has no others.
            "metrics": {name: value if isfinite(value) else None for name, value in e.metrics.items()},
        }
        for e in leaderboard(front)[0]
    ]
