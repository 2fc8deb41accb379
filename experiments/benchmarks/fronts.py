"""Real searches: the default (known_cost, with stopping) against tpe without it, at equal training samples.

    python experiments/benchmarks/fronts.py --runs /some/folder

The default searches first; tpe then gets as many candidates, all trained to their end, as the same number of training
examples is enough for. Candidates are selected on validation; what is compared is the test score of the fronts'
members. The searches stay in `--runs`: a benchmark that was ended goes on there.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import _trec
import numpy as np
import typer
from _harness import RESULTS, Out, Quick, show, summarise, write

import autopeft

DEFAULT, RIVAL = "known_cost, pareto", "tpe, trained to the end"
SAMPLERS = {
    DEFAULT: {"sampler": "known_cost", "stopping": "pareto"},
    RIVAL: {"sampler": "tpe", "stopping": "none"},
}
TASKS = ("trec", "cr")
#: Costs at which the fronts are read, in parts of the budget.
LIMITS = (0.01, 0.03, 0.1, 0.3, 1.0)
MODEL, SPACE, SHARE = "minilm", "hybrid", "1%"


def search(task: str, name: str, seed: int, trials: int, training: Mapping[str, Any], runs: Path) -> Any:
    """A finished search: run, resumed, or opened where it has ended already."""
    out = runs / f"{task}-{SAMPLERS[name]['sampler']}-{seed}"
    limits = {split: training[split] for split in ("train_limit", "validation_limit")}
    # A seed is of the search and of the training.
    rest = {k: v for k, v in training.items() if k not in limits}
    return autopeft.search(
        out=out,
        name=out.name,
        model=MODEL,
        task=_trec.task(task, **limits, metric="accuracy"),
        space=SPACE,
        budget={"trainable_params": SHARE},
        sampler={"name": SAMPLERS[name]["sampler"], "seed": seed},
        stopping=SAMPLERS[name]["stopping"],
        training={**rest, "max_length": 128, "seed": seed, "head": "drawn", "method_rates": "shared"},
        trials=trials,
        controls="none",
        descent="none",
        confirm="none",
        runner={"name": "ray", "workers": 2, "cpus_per_worker": 1},
        tracking={"name": "mlflow", "uri": f"sqlite:///{runs.absolute()}/mlflow.db"},
    )


def figures(result: Any, train: int) -> dict[str, Any]:
    """What is compared of one search; test scores are of what validation has selected."""
    front, limit = result.front, result.front.limits["trainable_params"]
    members = [
        {name: e.metrics.get(name) for name in ("trainable_params", "accuracy", "test_accuracy")} for e in front.points
    ]
    statuses = [e.status for e in result.evaluations]
    return {
        "members": members,
        "samples": sum(e.fidelity for e in result.evaluations) * train,
        "candidates": len(statuses),
        "stopped": statuses.count("stopped"),
        "failed": statuses.count("failed"),
        "seconds": sum(e.seconds for e in result.evaluations),
        "test_at": {str(part): test_within(members, part * limit) for part in LIMITS},
        "test_volume": volume(members, limit),
    }


def test_within(members: Sequence[Mapping[str, float]], limit: float) -> float | None:
    """The test score of the member that validation prefers within a limit."""
    within = [m for m in members if m["trainable_params"] <= limit]
    return max(within, key=lambda m: m["accuracy"])["test_accuracy"] if within else None


def volume(members: Sequence[Mapping[str, float]], limit: float) -> float:
    """The mean test score over all limits, uniform on a logarithmic scale from 768 (the least hybrid) to the budget.

    At each limit that of the member which validation prefers; 0 where there is none.
    """
    grid = np.exp(np.linspace(np.log(768), np.log(limit), 200))
    return statistics.fmean(test_within(members, float(at)) or 0.0 for at in grid)


def compare(task: str, seed: int, trials: int, training: Mapping[str, Any], runs: Path) -> dict[str, Any]:
    """Both searches of one seed, at equal training samples."""
    ours = figures(search(task, DEFAULT, seed, trials, training, runs), training["train_limit"])
    equal = max(2, round(ours["samples"] / (training["epochs"] * training["train_limit"])))
    rival = figures(search(task, RIVAL, seed, equal, training, runs), training["train_limit"])
    return {DEFAULT: ours, RIVAL: rival}


def report(task: str, pairs: Sequence[Mapping[str, Any]]) -> None:
    """The fronts side by side: medians over the seeds, and their range."""

    def row(title: str, values: Mapping[str, list[float | None]]) -> tuple[str, ...]:
        known = {name: [v for v in found if v is not None] for name, found in values.items()}
        return (title, *(str(summarise(found)) if found else "-" for found in known.values()))

    def of(pick: Any) -> dict[str, list[float | None]]:
        return {name: [pick(pair[name]) for pair in pairs] for name in (DEFAULT, RIVAL)}

    rows = [
        row(f"test accuracy within {part:.0%} of the budget", of(lambda f, p=part: f["test_at"][str(p)]))
        for part in LIMITS
    ]
    rows += [
        row("mean test accuracy over limits (log scale)", of(lambda f: f["test_volume"])),
        row("members of the front", of(lambda f: len(f["members"]))),
        row("candidates", of(lambda f: f["candidates"])),
        row("of them stopped", of(lambda f: f["stopped"])),
        row("training samples", of(lambda f: f["samples"])),
    ]
    show(f"{task}: median (range) of {len(pairs)} seeds", ("figure", DEFAULT, RIVAL), rows)


def plot(found: Mapping[str, Sequence[Mapping[str, Any]]], path: Path) -> None:
    """The members' test scores, a panel a task."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.5 * len(found), 4.2), layout="constrained")
    for axes, (task, pairs) in zip(figure.subplots(1, len(found), squeeze=False)[0], found.items(), strict=True):
        for name, color in ((DEFAULT, "#1f5fbf"), (RIVAL, "#c05020")):
            for i, pair in enumerate(pairs):
                members = pair[name]["members"]
                axes.plot(
                    [m["trainable_params"] for m in members],
                    [m["test_accuracy"] for m in members],
                    "o-",
                    color=color,
                    alpha=0.6,
                    markersize=3,
                    label=name if i == 0 else None,
                )
        axes.set(title=task, xscale="symlog", xlabel="trainable parameters", ylabel="test accuracy")
        axes.legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)


def main(
    runs: Annotated[Path, typer.Option(help="Folder of the searches.")],
    tasks: Annotated[str, typer.Option(help="Comma between them.")] = ",".join(TASKS),
    trials: Annotated[int, typer.Option(min=2, help="Candidates of the default.")] = 100,
    seeds: Annotated[int, typer.Option(min=1)] = 3,
    train: Annotated[int, typer.Option(min=8, help="Examples to train on.")] = 300,
    validation: Annotated[int, typer.Option(min=8, help="Examples to select on.")] = 300,
    epochs: Annotated[int, typer.Option(min=1)] = 5,
    batch: Annotated[int, typer.Option(min=1)] = 8,
    quick: Quick = False,
    out: Out = RESULTS,
) -> None:
    """Fronts of real searches, on test."""
    if quick:
        trials, seeds, train, validation, epochs = 4, 1, 24, 12, 1
    training = {"train_limit": train, "validation_limit": validation, "epochs": epochs, "batch_size": batch}
    found: dict[str, list[dict[str, Any]]] = {task: [] for task in tasks.split(",")}
    for seed in range(seeds):
        for task, pairs in found.items():
            pairs.append(compare(task, seed, trials, training, runs))
    for task, pairs in found.items():
        report(task, pairs)
    plot(found, out / "fronts.png")
    write("fronts", {"trials": trials, "seeds": seeds, "quick": quick, **training}, found, out)


if __name__ == "__main__":
    typer.run(main)
