"""Seconds a candidate costs beyond its training: processes, loading, the search itself, the tracking.

    python experiments/benchmarks/overhead.py

Overhead = workers x wall time - the sum of the candidates' own seconds of training and validation, in worker-seconds.
It is measured for a few and for many candidates of a small training: the difference is what one more candidate costs,
the rest is what starting and ending costs once. The less it is, the more candidates it takes to see it.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated

import _trec
import typer
from _candidates import drawn, ranks_of, write_points, write_ranks
from _harness import RESULTS, Measured, Out, Quick, Rounds, Run, interleave, run_script, show, summarise, write

OURS, REUSED, FRESH = "autopeft", "fair script, actors reused", "fair script, a process a trial"
#: Few and many candidates of each contender.
COUNTS = {OURS: (16, 96), REUSED: (8, 24), FRESH: (4, 12)}


def overhead(run: Run, workers: int) -> float:
    """Worker-seconds in which no candidate was trained or validated."""
    return workers * run.wall - sum(trial["seconds"] for trial in run.trials)


def contenders(
    folder: Path, counts: Mapping[str, tuple[int, int]], workers: int, change: str
) -> dict[str, Callable[[], float]]:
    """One for each contender and number of candidates, named `<contender>: <number>`."""
    candidates, data = drawn(max(many for _, many in counts.values())), folder / "data"
    found: dict[str, Callable[[], float]] = {}

    def add(name: str, count: int, script: str, *arguments: object) -> None:
        shared = ("--workers", workers, "--epochs", 1)
        found[f"{name}: {count}"] = lambda: overhead(run_script(script, *arguments, *shared, data=data), workers)

    for name, pair in counts.items():
        for count in pair:
            if name == OURS:
                points = write_points(candidates[:count], folder / f"points-{count}.json")
                add(name, count, "autopeft_script", "--points", points, "--change", change)
            else:
                ranks = write_ranks([ranks_of(c) for c in candidates[:count]], folder / f"ranks-{count}.json")
                add(name, count, "fair_script", "--candidates", ranks, *(["--no-reuse-actors"] * (name == FRESH)))
    return found


def line(measured: Measured, name: str, few: int, many: int) -> tuple[list[float], list[float]]:
    """(What one more candidate costs, what a search costs once), round by round."""
    pairs = list(zip(measured.values[f"{name}: {few}"], measured.values[f"{name}: {many}"], strict=True))
    slopes = [(b - a) / (many - few) for a, b in pairs]
    return slopes, [a - few * slope for (a, _), slope in zip(pairs, slopes, strict=True)]


def report(measured: Measured, counts: Mapping[str, tuple[int, int]]) -> Mapping[str, Mapping[str, list[float]]]:
    """Print the table; slopes and intercepts."""
    lines = {name: line(measured, name, *pair) for name, pair in counts.items()}
    rows = []
    for name, (slopes, once) in lines.items():
        few, many = counts[name]
        whole = [v / many for v in measured.values[f"{name}: {many}"]]
        rows.append((name, f"{few}, {many}", str(summarise(whole)), str(summarise(slopes)), str(summarise(once))))
    show(
        "Worker-seconds beyond training and validation: median (range)",
        ("contender", "candidates", "a candidate, of many", "one more candidate", "once a search"),
        rows,
    )
    return {name: {"one_more": slopes, "once": once} for name, (slopes, once) in lines.items()}


def main(
    per_class: Annotated[int, typer.Option(min=1, help="Examples of each of TREC's 6 classes in a split.")] = 10,
    workers: Annotated[int, typer.Option(min=1, help="Each has one core.")] = 2,
    change: Annotated[str, typer.Option(help="JSON: fields of autopeft's experiment to change.")] = "{}",
    rounds: Rounds = 3,
    quick: Quick = False,
    out: Out = RESULTS,
) -> None:
    """What a candidate costs beyond its training."""
    counts = dict.fromkeys(COUNTS, (2, 4)) if quick else COUNTS
    with tempfile.TemporaryDirectory(prefix="overhead-") as scratch:
        folder = Path(scratch)
        _trec.subset(folder / "data", 5 if quick else per_class)
        measured = interleave(contenders(folder, counts, workers, change), 1 if quick else rounds)
    settings = {"candidates": counts, "per_class": per_class, "workers": workers, "epochs": 1, "rounds": rounds}
    results = {"overhead": measured.to_json(), "lines": report(measured, counts)}
    write("overhead", settings | {"change": change, "quick": quick}, results, out)


if __name__ == "__main__":
    typer.run(main)
