"""A language model's front over seeds, against uniform LoRA with ranks and rates tuned, at equal trainings.

    python experiments/benchmarks/language_fronts.py --model /some/tiny-llama --runs /some/folder

Instructions (`instruct` beside the other data sets) are what is learned. Both searches are confirmed with other seeds;
what is compared is the mean test loss of what the validation means prefer within each share of the budget.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import _trec
import typer
from _harness import RESULTS, Out, Quick, show, write

import autopeft
from autopeft.candidate import Evaluation
from autopeft.models import find_model
from autopeft.result import SearchResult
from autopeft.space import SearchSpace

#: Shares of the budget at which fronts are read.
SHARES = (1 / 16, 1 / 4, 1.0)
RANKS = (1, 2, 4, 8, 16, 32)
LORA: dict[str, Any] = {
    "sizes": "per_layer",
    "blocks": {"lora": {"rank": [0, *RANKS], "sites": ["q", "v"]}},
    "training": {"learning_rate": {"low": 2e-3, "high": 3e-1, "log": True}},
}


def uniform(model: str, trials: int) -> list[dict[str, float]]:
    """Points of `LORA`: every rank in all layers, at as many rates as there are trials for, evenly over the range."""
    space = SearchSpace.load(LORA, find_model(model).shape())
    sizes = [d.name for d in space.dimensions if d.name != "learning_rate"]
    rates, steps = LORA["training"]["learning_rate"], max(1, trials // len(RANKS))
    ratio = (rates["high"] / rates["low"]) ** (1 / steps)
    tried = [rates["low"] * ratio ** (i + 0.5) for i in range(steps)]
    return [{**dict.fromkeys(sizes, RANKS.index(rank) + 1), "learning_rate": rate} for rank in RANKS for rate in tried][
        :trials
    ]


def kinds(model: str, trials: int, seed: int) -> dict[str, dict[str, Any]]:
    """The two searches: all defaults, its space too; the grid alone."""
    grid = {"name": "given", "points": uniform(model, trials)}
    return {
        "search": {"sampler": {"name": "known_cost", "seed": seed}},
        "uniform LoRA": {"space": LORA, "sampler": grid, "stopping": "none", "training": {"method_rates": "shared"}},
    }


def search(name: str, own: Mapping[str, Any], asked: Mapping[str, Any]) -> SearchResult:
    """A search of that kind; it goes on where it was."""
    folder, own = _trec.folder("instruct"), dict(own)
    files = {split: str(folder / file) for split, file in _trec.SPLITS.items()}
    runs = asked["runs"]
    return autopeft.search(
        out=runs / f"{name.replace(' ', '-')}-{asked['seed']}",
        name=name.replace(" ", "-"),
        model=asked["model"],
        task={"name": "files", **files, "template": asked["template"], "train_limit": asked["train"]},
        budget={"trainable_params": asked["budget"]},
        training={
            "epochs": asked["epochs"],
            "batch_size": asked["batch"],
            "max_length": asked["length"],
            "seed": asked["seed"],
            **own.pop("training", {}),
        },
        trials=asked["trials"],
        confirm={"seeds": asked["seeds"], "time": asked["time"]},
        runner={"name": "ray", "workers": 2, "cpus_per_worker": 1},
        tracking={"name": "mlflow", "uri": f"sqlite:///{runs.absolute()}/mlflow.db"},
        **own,
    )


def points(result: SearchResult) -> list[dict[str, Any]]:
    """What was confirmed: parameters, and losses over the seeds."""
    front, found = result.front, []
    for e in front.done:
        known = front.verdict.confirmed.get(e.number)
        if known is not None and "test_loss" in known.scores:
            found.append(_point(e, known))
    return found


def _point(e: Evaluation, known: Any) -> dict[str, Any]:
    test = known.scores["test_loss"]
    return {
        "key": e.key,
        "params": e.metrics["trainable_params"],
        "born": e.born,
        "rate": e.candidate.training.get("learning_rate"),
        "seeds": known.seeds,
        "validation": known.scores["loss"].mean,
        "test": test.mean,
        "test_sd": test.sd,
    }


def within(found: Sequence[Mapping[str, Any]], most: float) -> Mapping[str, Any] | None:
    """The one of least validation loss within so many parameters."""
    fitting = [p for p in found if p["params"] <= most and not math.isnan(p["test"])]
    return min(fitting, key=lambda p: p["validation"], default=None)


def report(found: Mapping[str, Sequence[Mapping[str, Any]]], walls: Mapping[str, float], budget: float) -> None:
    """A row a search, and the differences at each share."""

    def cell(one: Mapping[str, Any] | None) -> str:
        if one is None:
            return "-"
        return f"{one['test']:.4f} ±{one['test_sd']:.4f} ({one['seeds']}) at {one['params']:,.0f}"

    picks = {name: [within(rows, share * budget) for share in SHARES] for name, rows in found.items()}
    rows = [(name, *map(cell, picks[name]), f"{walls[name]:.0f}") for name in found]
    columns = ("search", *(f"<= {share * budget:,.0f}" for share in SHARES), "wall s")
    show("test loss, mean ± sd (seeds) at parameters", columns, rows)
    for share, one, other in zip(SHARES, picks["search"], picks["uniform LoRA"], strict=True):
        if one and other:
            error = math.sqrt(one["test_sd"] ** 2 / one["seeds"] + other["test_sd"] ** 2 / other["seeds"])
            print(f"  within {share * budget:,.0f}: {one['test'] - other['test']:+.4f} (standard error {error:.4f})")


def main(
    model: Annotated[str, typer.Option(help="Built-in name, folder or hub id.")],
    runs: Annotated[Path, typer.Option(help="Folder of the searches, which go on where they were.")],
    budget: Annotated[int, typer.Option(min=1, help="Trainable parameters.")] = 32_768,
    trials: Annotated[int, typer.Option(min=2)] = 24,
    seed: Annotated[int, typer.Option(min=0, help="Of search and training.")] = 0,
    seeds: Annotated[int, typer.Option(min=2, help="Of the confirmation.")] = 5,
    train: Annotated[int | None, typer.Option(min=8, help="Rows to train on; all, if not given.")] = None,
    epochs: Annotated[int, typer.Option(min=1)] = 3,
    batch: Annotated[int, typer.Option(min=1)] = 16,
    length: Annotated[int, typer.Option(min=8, help="Tokens of a row at most.")] = 256,
    template: Annotated[str, typer.Option(help="Chat template: auto, plain, none or a file.")] = "plain",
    confirm_time: Annotated[float, typer.Option(help="Of a search's seconds of training, at most.")] = 4.0,
    quick: Quick = False,
    out: Out = RESULTS,
) -> None:
    """Fronts of a language model, by the search and by a grid."""
    if quick:
        trials, seeds, train, epochs = 12, 2, 32, 1
    asked: dict[str, Any] = {"model": model, "budget": budget, "trials": trials, "seed": seed, "seeds": seeds}
    asked |= {"train": train, "epochs": epochs, "batch": batch, "length": length, "template": template}
    asked |= {"time": confirm_time, "runs": runs}
    found, walls = {}, {}
    for name, own in kinds(model, trials, seed).items():
        began = time.time()
        found[name] = points(search(name, own, asked))
        walls[name] = time.time() - began
    report(found, walls, budget)
    write("language_fronts", {**asked, "runs": str(runs), "quick": quick}, found, out)


if __name__ == "__main__":
    typer.run(main)
