"""What came out of a recipe: a training a seed, and their scores."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autopeft.candidate import Evaluation
from autopeft.hybrid import Hybrid
from autopeft.markup import table
from autopeft.recipe import Recipe
from autopeft.searching.confirming.values import Run, Spread
from autopeft.searching.confirming.verdict import median_run
from autopeft.searching.objective import Objective
from autopeft.wording import number, spaced

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class SeedTraining:
    """A recipe followed with one seed: its own recipe, what was evaluated on the way, why it ended early if it did.

    The metrics of the last stop are those of what came out, with `test_<metric>`.
    """

    recipe: Recipe
    stops: tuple[Evaluation, ...]
    error: str | None = None

    @property
    def seed(self) -> int:
        """Of all steps."""
        return self.recipe.seed

    @property
    def last(self) -> Evaluation:
        """The last stop."""
        return self.stops[-1]

    @property
    def hybrid(self) -> Hybrid:
        """What came out."""
        return self.last.candidate.hybrid

    @property
    def metrics(self) -> Mapping[str, float]:
        """Of what came out; nothing where it failed."""
        return {} if self.error else self.last.metrics

    def to_json(self, asked: Recipe) -> dict[str, Any]:
        """Plain data; `asked` is the recipe that was followed."""
        if self.error:
            return {"seed": self.seed, "error": self.error}
        return {
            "seed": self.seed,
            "key": self.last.key,
            "hybrid": self.hybrid.to_json(),
            "same_hybrid": self.hybrid == asked.hybrid,
            "metrics": dict(self.metrics),
            "stops": [{"born": e.born, "key": e.key, "metrics": dict(e.metrics)} for e in self.stops],
            "recipe": self.recipe.to_json(),
        }


@dataclass(frozen=True, repr=False)
class TrainResult:
    """A recipe followed with some seeds.

    `metrics` are the task's, main one first; `folder` holds the adapter of the median seed, where it was asked for.
    """

    recipe: Recipe
    trainings: tuple[SeedTraining, ...]
    metrics: tuple[str, ...]
    folder: Path | None = None

    @property
    def done(self) -> list[SeedTraining]:
        """Those that came to their end."""
        return [training for training in self.trainings if not training.error]

    @property
    def scores(self) -> dict[str, Spread]:
        """Mean and standard deviation over seeds, of validation and test scores."""
        runs = [Run.of(training.last).metrics for training in self.done]
        return {name: Spread.of([run[name] for run in runs]) for name in (runs[0] if runs else ())}

    @property
    def median(self) -> SeedTraining:
        """That of the median validation score (of two in the middle the worse)."""
        run = median_run([Run.of(training.last) for training in self.done], Objective.of(self.metrics[0]))
        return next(training for training in self.done if training.seed == run.seed)

    def to_json(self) -> dict[str, Any]:
        """What `autopeft train --json` prints."""
        return {
            "recipe": self.recipe.to_json(),
            "trainings": [training.to_json(self.recipe) for training in self.trainings],
            "scores": {name: spread.to_json() for name, spread in self.scores.items()},
            "median_seed": self.median.seed,
            "folder": None if self.folder is None else str(self.folder),
        }

    def to_frame(self) -> pd.DataFrame:
        """A row a seed: its metrics, and its hybrid in words."""
        import pandas as pd

        return pd.DataFrame([{"seed": t.seed, **t.metrics, "hybrid": t.hybrid.describe()} for t in self.done])

    def __repr__(self) -> str:
        name = self.metrics[0]
        said = ", ".join(f"{n} {self.scores[n].words}" for n in (name, f"test_{name}"))
        return f"TrainResult({len(self.done)} of {len(self.trainings)} seeds: {said})"

    def _repr_html_(self) -> str:
        names = list(self.done[0].metrics) if self.done else []
        rows = [[t.seed, *(number(t.metrics.get(name)) for name in names), t.hybrid.describe()] for t in self.done]
        return table(["seed", *map(spaced, names), "hybrid"], rows, {len(names) + 1})
