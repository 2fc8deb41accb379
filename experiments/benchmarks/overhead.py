"""Seconds a candidate costs beyond its training: processes, loading, the search itself, the tracking.

    python experiments/benchmarks/overhead.py

Overhead = workers x wall time - the sum of the candidates' own seconds of training and validation, in worker-seconds.
It is measured for n and for 2n candidates of a small training: the difference is what one more candidate costs, the
rest is what starting and ending costs once.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated

import _trec
import typer
from _candidates import drawn, ranks_of, write_points, write_ranks
from _harness import RESULTS, Measured, Out, Quick, Rounds, Run, interleave, run_script, show, summarise, write

OURS, REUSED, FRESH = "autopeft", "fair script, actors reused", "fair script, a process a trial"


def overhead(run: Run, workers: int) -> float:
    """Worker-seconds in which no candidate was trained or validated."""
    return workers * run.wall - sum(trial["seconds"] for trial in run.trials)


def contenders(folder: Path, counts: Sequence[int], workers: int, change: str) -> dict[str, Callable[[], float]]:
    """One for each contender and number of candidates, named `<contender>: <number>`."""
    candidates, data = drawn(max(counts)), folder / "data"
    found: dict[str, Callable[[], float]] = {}

    def add(name: str, count: int, script: str, *arguments: object) -> None:
        shared = ("--workers", workers, "--epochs", 1)
        found[f"{name}: {count}"] = lambda: overhead(run_script(script, *arguments, *shared, data=data), workers)

    for count in counts:
        points = write_points(candidates[:count], folder / f"points-{count}.json")
        ranks = write_ranks([ranks_of(c) for c in candidates[:count]], folder / f"ranks-{count}.json")
        add(OURS, count, "autopeft_script", "--points", points, "--change", change)
        add(REUSED, count, "fair_script", "--candidates", ranks)
        add(FRESH, count, "fair_script", "--candidates", ranks, "--no-reuse-actors")
    return found


def line(measured: Measured, name: str, few: int, many: int) -> tuple[list[float], list[float]]:
    """(What one more candidate costs, what a search costs once), round by round."""
    pairs = list(zip(measured.values[f"{name}: {few}"], measured.values[f"{name}: {many}"], strict=True))
    slopes = [(b - a) / (many - few) for a, b in pairs]
    return slopes, [a - few * slope for (a, _), slope in zip(pairs, slopes, strict=True)]


def report(measured: Measured, few: int, many: int) -> Mapping[str, Mapping[str, list[float]]]:
    """Print the table; slopes and intercepts."""
    lines = {name: line(measured, name, few, many) for name in (OURS, REUSED, FRESH)}
    rows = []
    for name, (slopes, once) in lines.items():
        whole = [[v / n for v in measured.values[f"{name}: {n}"]] for n in (few, many)]
        rows.append((name, *(str(summarise(values)) for values in (*whole, slopes, once))))
    show(
        "Worker-seconds beyond training and validation: median (range)",
        ("contender", f"a candidate, of {few}", f"a candidate, of {many}", "one more candidate", "once a search"),
        rows,
    )
    return {name: {"one_more": slopes, "once": once} for name, (slopes, once) in lines.items()}


def main(
    candidates: Annotated[int, typer.Option(min=1, help="n; 2n are measured too.")] = 8,
    per_class: Annotated[int, typer.Option(min=1, help="Examples of each of TREC's 6 classes in a split.")] = 40,
    workers: Annotated[int, typer.Option(min=1, help="Each has one core.")] = 2,
    change: Annotated[str, typer.Option(help="JSON: fields of autopeft's experiment to change.")] = "{}",
    rounds: Rounds = 3,
    quick: Quick = False,
    out: Out = RESULTS,
) -> None:
    """What a candidate costs beyond its training."""
    if quick:
        candidates, per_class, rounds = 2, 5, 1
    few, many = candidates, 2 * candidates
    with tempfile.TemporaryDirectory(prefix="overhead-") as scratch:
        folder = Path(scratch)
        _trec.subset(folder / "data", per_class)
        measured = interleave(contenders(folder, (few, many), workers, change), rounds)
    settings = {"candidates": [few, many], "per_class": per_class, "workers": workers, "epochs": 1, "rounds": rounds}
    results = {"overhead": measured.to_json(), "lines": report(measured, few, many)}
    write("overhead", settings | {"change": change, "quick": quick}, results, out)


if __name__ == "__main__":
    typer.run(main)
