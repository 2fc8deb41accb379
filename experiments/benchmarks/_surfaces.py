"""What searchers search on: learning curves for every point of a space, without training.

The interpolated table of measured hybrids, and two closed forms over the space `hybrid` on BERT-base (49 dimensions).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Protocol

import numpy as np
from table._features import Features, Point
from table.lookup import HERE as TABLES
from table.lookup import Table

from autopeft.anatomy import ModelShape
from autopeft.budget import Budget
from autopeft.space import SearchSpace

#: The name of the score and of the cost on all surfaces.
SCORE, COST = "accuracy", "trainable_params"
BERT_BASE = ModelShape(
    "bert", 12, 768, 3072, 12, 12, 64,
    dict.fromkeys("qkvo", (768, 768)) | {"up": (768, 3072), "down": (3072, 768)}, 109_482_240,
)  # fmt: skip


class Surface(Protocol):
    """Scores of a space's points; `mean_of` is the truth, `course` what one training with a seed would show.

    `floor` is the score of the hybrid that adapts nothing; `points` are known beforehand (a table's); `version` changes
    with the scores. Shapes: rows of coordinates [N, D], curves [N, E].
    """

    name: str
    version: str
    space: SearchSpace
    budget: Budget
    epochs: int
    train: int
    floor: float
    points: Sequence[Point]

    def mean_of(self, rows: np.ndarray) -> np.ndarray: ...

    def course(self, point: Point, seed: int) -> tuple[np.ndarray, np.ndarray]: ...


class Synthetic:
    """Every method in a layer adds to what is learnt, with falling returns; deeper layers add more.

    `coupled`: methods on the same sublayer partly replace each other, prefix and LoRA help each other, neighbouring
    layers overlap, and the best learning rate falls with the number of parameters. Otherwise effects only add up, and
    one learning rate is the best. Scores approach their end the faster, the larger the rate is. Noise is normal, and
    correlated from epoch to epoch.
    """

    version = "1"
    epochs, train, floor = 6, 1_000, 0.25
    points: Sequence[Point] = ()
    #: By method (sequential, parallel, prefix, LoRA): how much it can add, and the size that adds half of it.
    GAIN, HALF = np.array([1.0, 1.2, 0.5, 0.9]), np.array([12.0, 12.0, 6.0, 3.0])
    BEST, WIDTH, STEEPNESS = 0.93, 1.0, 2.2
    NOISE, CORRELATION = 0.015, 0.7

    def __init__(self, coupled: bool) -> None:
        self.name = "coupled" if coupled else "additive"
        self.space = SearchSpace.load("hybrid", BERT_BASE)
        self.budget = Budget.resolve({COST: "0.5%"}, BERT_BASE, 128)
        self._coupled, self._features = coupled, Features(self.space)

    def mean_of(self, rows: np.ndarray) -> np.ndarray:
        rate = rows[:, -1]
        learnt = 1 - np.exp(-self.STEEPNESS * self._gain(self._features.sizes(rows)))
        away = np.log(rate / self._best_rate(self._features.params(rows)))
        final = self.floor + (self.BEST - self.floor) * learnt * np.exp(-(away**2) / (2 * self.WIDTH**2))
        pace = np.clip(2.0 * np.sqrt(1e-3 / rate), 0.7, 5.0)[:, None]
        reached = (1 - np.exp(-np.arange(1, self.epochs + 1) / pace)) / (1 - np.exp(-self.epochs / pace))
        return self.floor + (final[:, None] - self.floor) * reached

    def _gain(self, sizes: np.ndarray) -> np.ndarray:
        """What is learnt [N] by sizes [N, layers, methods], about 0 to 1."""
        layers = sizes.shape[1]
        effect = self.GAIN * sizes / (sizes + self.HALF)
        inside = effect.sum(2)
        if self._coupled:
            inside = inside - 0.6 * effect[..., 0] * effect[..., 1] + 0.8 * effect[..., 2] * effect[..., 3]
        inside = inside * np.linspace(0.3, 1.7, layers)
        overlap = 0.2 * inside[:, 1:] * inside[:, :-1] if self._coupled else np.zeros((len(sizes), 1))
        return (inside.sum(1) - overlap.sum(1)) / layers

    def _best_rate(self, params: np.ndarray) -> np.ndarray:
        if not self._coupled:
            return np.full(len(params), 1.2e-3)
        return 2.5e-3 * (1 + params / 2e4) ** -0.4

    def course(self, point: Point, seed: int) -> tuple[np.ndarray, np.ndarray]:
        mean = self.mean_of(self._features.table([point]))[0]
        rng = np.random.default_rng([int(self.space.decode(point).key, 16), seed])
        noise = np.zeros(self.epochs)
        fresh, shared = rng.normal(0.0, self.NOISE, (2, self.epochs))
        for e in range(self.epochs):
            before = noise[e - 1] if e else shared[0]
            noise[e] = self.CORRELATION * before + math.sqrt(1 - self.CORRELATION**2) * fresh[e]
        scores = np.clip(mean + noise, 0.0, 1.0)
        return scores, 0.15 + 1.9 * (1 - scores)


class Interpolated:
    """The interpolation of a table in this folder."""

    def __init__(self, name: str) -> None:
        table = Table.load(name)
        surface = table.interpolated()
        self.name, self.space, self.budget, self.points = name, table.space, table.budget, table.points
        self.epochs, self.train, self.floor = table.epochs, table.train, surface.floor
        self.mean_of: Callable[[np.ndarray], np.ndarray] = surface.mean_of
        self.course: Callable[[Point, int], tuple[np.ndarray, np.ndarray]] = surface.course
        figures = table.rows.drop(columns="seconds").to_csv(index=False)
        self.version = hashlib.sha256(figures.encode()).hexdigest()[:12]


_MADE: Mapping[str, Callable[[], Surface]] = {
    "additive": lambda: Synthetic(coupled=False),
    "coupled": lambda: Synthetic(coupled=True),
}


def names() -> list[str]:
    """Tables first."""
    return [*sorted(path.stem for path in TABLES.glob("*.parquet")), *_MADE]


@lru_cache(maxsize=8)
def surface(name: str) -> Surface:
    """The surface of that name, made once a process."""
    return _MADE[name]() if name in _MADE else Interpolated(name)
