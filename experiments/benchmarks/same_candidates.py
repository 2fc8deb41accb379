"""The same candidates by three contenders: what a quick user writes, what a good user writes, autopeft.

    python experiments/benchmarks/same_candidates.py

48 candidates of the space `lora_ranks` on MiniLM, 3 epochs of TREC each: wall time, and the scores side by side. The
slow contenders train some of the candidates only; what all would take is worked out from those, and said to be. The
good user's share is trained in two halves, before and after the others: a machine that changes on the way shows.
"""

from __future__ import annotations

import math
import statistics
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import _trec
import typer
from _candidates import COUNT, SEED, LoraRanks, drawn, ranks_of, write_points, write_ranks
from _harness import RESULTS, Measured, Out, Quick, Rounds, Run, ratio_table, run_script, show, summarise, write

NAIVE, FAIR, OURS = "naive script", "fair script", "autopeft"
Scores = dict[LoraRanks, float]


@dataclass(frozen=True)
class Plan:
    """How many candidates each contender trains, and how."""

    counts: Mapping[str, int]
    epochs: int
    naive_epochs: int
    workers: int
    change: str
    data: Path | None


def one_round(candidates: Sequence[Any], plan: Plan, folder: Path) -> dict[str, list[Run]]:
    """Half of the fair script's share, the naive script's, autopeft's, the other half of the fair script's."""
    ranks = [ranks_of(candidate) for candidate in candidates]
    half = -(-plan.counts[FAIR] // 2)
    before, after = ranks[:half], ranks[half : plan.counts[FAIR]]
    runs: dict[str, list[Run]] = {NAIVE: [], FAIR: [], OURS: []}
    runs[FAIR] += fair(before, plan, folder)
    for chosen in ranks[: plan.counts[NAIVE]]:
        arguments = ("--candidate", chosen.to_json(), "--epochs", plan.naive_epochs)
        runs[NAIVE].append(stretched(run_script("naive_script", *arguments, data=plan.data), plan))
    if plan.counts[OURS]:
        points = write_points(candidates[: plan.counts[OURS]], folder / "points.json")
        arguments = ("--points", points, "--epochs", plan.epochs, "--workers", plan.workers, "--change", plan.change)
        runs[OURS].append(run_script("autopeft_script", *arguments, data=plan.data))
    runs[FAIR] += fair(after, plan, folder)
    return {name: found for name, found in runs.items() if found}


def stretched(run: Run, plan: Plan) -> Run:
    """A naive run of fewer epochs, its training as long as all epochs take, and without its score."""
    if plan.naive_epochs == plan.epochs:
        return run
    trial = run.trials[0]
    longer = trial["seconds"] * plan.epochs / plan.naive_epochs
    return replace(
        run, wall=run.wall - trial["seconds"] + longer, trials=({**trial, "score": None, "seconds": longer},)
    )


def fair(ranks: Sequence[LoraRanks], plan: Plan, folder: Path) -> list[Run]:
    if not ranks:
        return []
    file = write_ranks(ranks, folder / "ranks.json")
    arguments = ("--candidates", file, "--epochs", plan.epochs, "--workers", plan.workers)
    return [run_script("fair_script", *arguments, data=plan.data)]


def wall_of_all(runs: Sequence[Run], count: int) -> float:
    """Wall time of `count` candidates: measured when one run has trained them all, else worked out in proportion.

    A script that says in which `span` it trained has started before and ended after that, which is counted once; and
    that a worker was idle at the end of its share is left out (`busy`): with more candidates it would not have been.
    """
    trained = sum(len(run.trials) for run in runs)
    if trained == count and len(runs) == 1:
        return runs[0].wall
    once = statistics.median(run.wall - float(run.said.get("span", run.wall)) for run in runs)
    return once + sum(float(run.said.get("busy", run.wall)) for run in runs) * count / trained


def scores_of(rounds: Sequence[Mapping[str, Sequence[Run]]], name: str) -> Scores:
    """The mean over the rounds; a failed candidate has none."""
    seen: dict[LoraRanks, list[float]] = {}
    for runs in rounds:
        for trial in (t for run in runs.get(name, ()) for t in run.trials):
            if trial["score"] is not None:
                seen.setdefault(LoraRanks.of(trial), []).append(trial["score"])
    return {candidate: statistics.fmean(values) for candidate, values in seen.items()}


def agreement(ours: Scores, other: Scores) -> dict[str, float]:
    """Of the candidates that both have: means, differences, Kendall's tau."""
    from scipy.stats import kendalltau

    both = [c for c in ours if c in other]
    if not both:
        return {"n": 0}
    differences = [ours[c] - other[c] for c in both]
    tau = kendalltau([ours[c] for c in both], [other[c] for c in both]).statistic if len(both) > 1 else math.nan
    return {
        "n": len(both),
        "mean_ours": statistics.fmean(ours[c] for c in both),
        "mean_other": statistics.fmean(other[c] for c in both),
        "mean_difference": statistics.fmean(differences),
        "largest_difference": max(map(abs, differences)),
        "kendall_tau": float(tau),
    }


def report(rounds: Sequence[Mapping[str, Sequence[Run]]], plan: Plan, count: int) -> dict[str, Any]:
    """Print the tables; the results as plain data."""
    walls = Measured({name: [wall_of_all(runs[name], count) for runs in rounds] for name in rounds[0]})
    ran = {name: plan.counts[name] for name in rounds[0]}
    for name, n in ran.items():
        once = ", start and end counted once, idle ends left out" if name == FAIR else ""
        scaled = "all measured" if n == count else f"wall time of {count} = that of {n} x {count}/{n}{once}"
        fewer = f"; {plan.naive_epochs} epoch(s) trained, time as of {plan.epochs}" if name == NAIVE else ""
        print(f"{name}: {n} of {count} run a round; {scaled}{fewer}")
    ratio_table(f"Wall time of {count} candidates", walls, "seconds", OURS if OURS in ran else next(iter(ran)))
    seconds = {name: [t["seconds"] for r in rounds for run in r[name] for t in run.trials] for name in ran}
    show(
        "A candidate's training and validation",
        ("contender", "candidates run", "seconds: median (range)"),
        [(name, ran[name], str(summarise(found))) for name, found in seconds.items()],
    )
    scores = {name: scores_of(rounds, name) for name in ran}
    pairs = {name: agreement(scores.get(OURS, {}), scores[name]) for name in ran if name != OURS}
    show_scores(scores, pairs)
    return {
        "wall_of_all": walls.to_json(),
        "ratios": {n: walls.ratios(n, OURS) for n in ran} if OURS in ran else {},
        "agreement": pairs,
        "runs": [
            {n: [{"wall": r.wall, **r.said} for r in found] for n, found in runs.items()} for runs in rounds
        ],
    }  # fmt: skip


def show_scores(scores: Mapping[str, Scores], pairs: Mapping[str, Mapping[str, float]]) -> None:
    others = [name for name in scores if name != OURS]
    columns = ("ranks", "parameters", "learning rate", *scores, *(f"{OURS} - {name}" for name in others))
    rows = []
    for c in {c: None for found in scores.values() for c in found}:
        known = [f"{scores[name][c]:.3f}" if c in scores[name] else "" for name in scores]
        both = [c in scores.get(OURS, {}) and c in scores[name] for name in others]
        differences = [f"{scores[OURS][c] - scores[n][c]:+.3f}" if b else "" for n, b in zip(others, both, strict=True)]
        rows.append((" ".join(map(str, c.ranks)), f"{c.params:,}", c.learning_rate, *known, *differences))
    show("Accuracy on validation", columns, rows)
    names = ("n", "mean_ours", "mean_other", "mean_difference", "largest_difference", "kendall_tau")
    kept = [(name, f"{p['n']}", *(f"{p[k]:.4f}" for k in names[1:])) for name, p in pairs.items() if p["n"]]
    show(f"{OURS} against", ("contender", *(name.replace("_", " ") for name in names)), kept)


def main(
    naive: Annotated[int, typer.Option(min=0, help="How many the naive script trains.")] = 1,
    fair: Annotated[int, typer.Option(min=0, help="How many the fair script trains.")] = 8,
    autopeft: Annotated[int, typer.Option(min=0, help="How many autopeft trains.")] = COUNT,
    epochs: Annotated[int, typer.Option(min=1)] = 3,
    naive_epochs: Annotated[int, typer.Option(min=1, help="Of the naive script; its time is stretched.")] = 1,
    workers: Annotated[int, typer.Option(min=1, help="Of the fair script and autopeft; each has one core.")] = 2,
    change: Annotated[str, typer.Option(help="JSON: fields of autopeft's experiment to change.")] = "{}",
    rounds: Rounds = 1,
    quick: Quick = False,
    out: Out = RESULTS,
) -> None:
    """Wall time and scores of the same candidates by three contenders."""
    with tempfile.TemporaryDirectory(prefix="same-candidates-") as scratch:
        folder, count, data = Path(scratch), COUNT, None
        if quick:
            naive, fair, autopeft, epochs, count = min(naive, 1), min(fair, 4), min(autopeft, 6), 1, 6
            data = _trec.subset(folder / "data", 10)
        _trec.folder()
        candidates = drawn(count, SEED)
        counts = {NAIVE: min(naive, count), FAIR: min(fair, count), OURS: min(autopeft, count)}
        plan = Plan(counts, epochs, min(naive_epochs, epochs), workers, change, data)
        found = [one_round(candidates, plan, folder) for _ in range(rounds)]
    settings = {
        "counts": counts,
        "of": count,
        "epochs": epochs,
        "naive_epochs": plan.naive_epochs,
        "workers": workers,
        "change": change,
        "quick": quick,
    }
    write("same_candidates", settings | {"rounds": rounds}, report(found, plan, count), out)


if __name__ == "__main__":
    typer.run(main)
