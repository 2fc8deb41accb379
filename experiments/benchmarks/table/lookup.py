"""The table, as it was measured or interpolated: learning curves of hybrids in microseconds in place of seconds.

table = Table.load("trec")
table.curve(table.points[0], seed=0)          # measured, for points of the table only
surface = table.interpolated()
surface.curve(point, seed=3)                  # any point of the space, with noise
surface.mean([point])                         # the same without noise: the truth to report against
"""

from __future__ import annotations

import json
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, Self

import numpy as np
import pandas as pd

from autopeft.budget import Budget, costs_of
from autopeft.models import find_model
from autopeft.space import SearchSpace

from ._features import Features, Point, unit
from ._interpolation import Interpolation, Measured

HERE = Path(__file__).resolve().parent


class Table:
    """Hybrids of a space on a model, each trained by the engine, with its scores after every epoch.

    `rows` has a line a training (of `row` and `seed`); `points` are the different hybrids, in the order of `row`, as
    points of `space`, all within `budget`. Scores are accuracies on validation, and losses are those there.
    """

    def __init__(self, name: str, frame: pd.DataFrame, settings: dict[str, Any]) -> None:
        self.name, self.settings = name, settings
        self.space = SearchSpace.load(settings["space"], find_model(settings["model"]).shape())
        self.budget = Budget.resolve(settings["budget"], self.space.shape, settings["max_length"])
        self.epochs, self.train = int(settings["epochs"]), int(settings["train"])
        self.features = Features(self.space)
        self.rows = frame[frame["status"] == "done"].reset_index(drop=True)
        figures = [f"{name}_{e + 1}" for name in ("accuracy", "loss") for e in range(self.epochs)]
        self._figures = self.rows[figures].to_numpy(dtype=float).round(6)

    @classmethod
    def load(cls, name: str = "trec", folder: Path = HERE) -> Self:
        """`<folder>/<name>.parquet`; read once as long as the file stays the same."""
        path = folder / f"{name}.parquet"
        return _load(cls, name, path, path.stat().st_mtime_ns)

    @cached_property
    def points(self) -> tuple[Point, ...]:
        first = self.rows.drop_duplicates("row").sort_values("row")
        return tuple(self.features.point(row) for row in first[self.features.names].to_numpy(dtype=float))

    @cached_property
    def _of_point(self) -> dict[tuple[float, ...], dict[int, int]]:
        """Lines of a point in `rows`, by seed."""
        found: dict[tuple[float, ...], dict[int, int]] = {}
        for i, (line, seed) in enumerate(zip(self._points_of_rows, self.rows["seed"], strict=True)):
            found.setdefault(tuple(line), {})[int(seed)] = i
        return found

    @cached_property
    def _points_of_rows(self) -> np.ndarray:
        return self.rows[self.features.names].to_numpy(dtype=float)

    def curve(self, point: Point, seed: int | None = None) -> np.ndarray:
        """The measured scores by epoch [E] of a point of the table; the mean of its seeds when `seed` is None.

        `KeyError` for a point that was not trained (see `nearest`), or not with this seed.
        """
        return self._figures_of(point, seed)[: self.epochs]

    def losses(self, point: Point, seed: int | None = None) -> np.ndarray:
        """The measured losses by epoch [E], as `curve`."""
        return self._figures_of(point, seed)[self.epochs :]

    def _figures_of(self, point: Point, seed: int | None) -> np.ndarray:
        lines = self._of_point[tuple(self.features.table([point])[0])]
        return self._figures[list(lines.values()) if seed is None else [lines[seed]]].mean(0)

    def nearest(self, point: Point) -> Point:
        """The point of the table that is nearest, every dimension scaled to 0..1."""
        away = unit(self.space, self.features.table([point])) - self._unit
        return self.points[int((away**2).sum(1).argmin())]

    @cached_property
    def _unit(self) -> np.ndarray:
        return unit(self.space, self.features.table(self.points))

    def costs(self, point: Point) -> dict[str, int]:
        """All costs of a point of the space, exactly."""
        return costs_of(self.space.hybrid(point), self.space.shape, self.budget.length)

    def measured(self) -> Measured:
        """All of it as arrays."""
        groups = list(self._of_point.values())
        means = np.array([self._figures[list(lines.values())].mean(0) for lines in groups])
        several = [(i, line) for i, lines in enumerate(groups) if len(lines) > 1 for line in lines.values()]
        residuals = [
            # n / (n - 1): the mean of a few lies too near to each of them.
            (self._figures[line] - means[i]) * np.sqrt(len(groups[i]) / (len(groups[i]) - 1))
            for i, line in several
        ]
        return Measured(
            np.array(list(self._of_point)),
            means,
            np.array([len(lines) for lines in groups], dtype=float),
            np.array(residuals).reshape(-1, means.shape[1]),
            np.array([i for i, _ in several], dtype=int),
        )

    def interpolated(self) -> Interpolation:
        """The surface through the table: a curve for any point of the space."""
        return self._interpolation

    @cached_property
    def _interpolation(self) -> Interpolation:
        return Interpolation.fit(self, self.measured())


@lru_cache(maxsize=4)
def _load(kind: type[Table], name: str, path: Path, changed: int) -> Any:
    from pyarrow import parquet

    content = parquet.read_table(path)
    return kind(name, content.to_pandas(), json.loads(content.schema.metadata[b"autopeft"]))
