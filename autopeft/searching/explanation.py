"""What a search has learned, as a value with its JSON, its pictures and its tables.

Shapes: L layers, B blocks.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from autopeft.doors import door
from autopeft.markup import Html, joined, table, tag
from autopeft.wording import counted

#: Where all shares of a part are smaller, it explains nothing.
LEAST = 0.001

if TYPE_CHECKING:
    from plotly.graph_objects import Figure


@dataclass(frozen=True)
class Share:
    """What a part of a candidate explains of the score's variance, each from 0 to 1.

    By the surrogate, over points like those evaluated: `first` alone, `total` with all interactions with other parts
    (Sobol' indices). By the random forest: `forest` alone, over the whole space (functional ANOVA; of a layer or a
    block the sum over its dimensions).
    """

    first: float
    total: float
    forest: float


@dataclass(frozen=True)
class Quality:
    """How well each model predicts scores that it has not seen: R2 (1 is perfect, 0 no better than the mean) and
    Spearman's rank correlation; the surrogate by leaving one out, the forest out of bag.

    The surrogate's hyper-parameters have seen all scores, so that its figures flatter: on pure noise R2 was up to 0.9
    with 8 evaluations, 0.3 with 20 and 0.2 with 40.
    """

    surrogate_r2: float
    surrogate_rank: float
    forest_r2: float


@dataclass(frozen=True)
class FrontUse:
    """Of the front's `members`: how many have a block in a layer, `counts` [L, B], and its mean size in those that
    have it, `sizes` [L, B] (0 where none has).
    """

    members: int
    counts: np.ndarray
    sizes: np.ndarray

    @property
    def shares(self) -> np.ndarray:
        """The share of the members [L, B]."""
        return self.counts / max(self.members, 1)


@dataclass(frozen=True)
class Explanation:
    """Shares of the variance of `score` by layer, by block, by training hyper-parameter, and by (layer, block) where
    sizes are per layer; what the front is made of. `methods` is each block's method; `warnings` say what to mind,
    `advice` what to change in a next search, and `evaluations` how many the search had.
    """

    score: str
    observations: int
    stopped: int
    quality: Quality
    layers: Mapping[int, Share]
    blocks: Mapping[str, Share]
    training: Mapping[str, Share]
    cells: Mapping[tuple[int, str], Share]
    methods: Mapping[str, str]
    front: FrontUse
    warnings: tuple[str, ...] = ()
    advice: tuple[str, ...] = ()
    evaluations: int = 0

    def __repr__(self) -> str:
        most = ", ".join(f"{name} {share.total:.2f}" for name, share in self.most())
        return (
            f"Explanation({self.score} of {self.observations} evaluations, surrogate R2 {self.quality.surrogate_r2:.2f}"
            f"; most depends on {most or 'nothing'})"
        )

    def _repr_html_(self) -> str:
        return explanation_html(self)

    def most(self, count: int = 3) -> list[tuple[str, Share]]:
        """The parts of a candidate of the largest shares, with interactions: `layer 5`, blocks, training."""
        layers = {f"layer {layer}": share for layer, share in self.layers.items()}
        named = {**layers, **self.blocks, **self.training}
        return sorted(named.items(), key=lambda item: -item[1].total)[:count]

    def to_json(self) -> dict[str, Any]:
        """All figures as plain data."""
        use = zip(self.front.counts, self.front.shares, self.front.sizes, strict=True)
        return {
            "score": self.score,
            "observations": self.observations,
            "stopped": self.stopped,
            "quality": asdict(self.quality),
            "warnings": list(self.warnings),
            "advice": list(self.advice),
            "evaluations": self.evaluations,
            "methods": dict(self.methods),
            "layers": [{"layer": layer, **asdict(share)} for layer, share in self.layers.items()],
            "blocks": [{"block": block, **asdict(share)} for block, share in self.blocks.items()],
            "training": [{"name": name, **asdict(share)} for name, share in self.training.items()],
            "cells": [{"layer": at, "block": block, **asdict(share)} for (at, block), share in self.cells.items()],
            "front": {
                "members": self.front.members,
                "cells": [
                    {"layer": layer, "block": block, "count": int(c), "share": float(s), "mean_size": float(size)}
                    for layer, rows in enumerate(use)
                    for block, c, s, size in zip(self.methods, *rows, strict=True)
                ],
            },
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """The explanation that `to_json` wrote; `AutopeftError` for other data."""
        with door("explanation", "not what 'autopeft explain' wrote"):
            methods = {str(block): str(method) for block, method in data["methods"].items()}
            return cls(
                score=str(data["score"]),
                observations=int(data["observations"]),
                stopped=int(data["stopped"]),
                quality=Quality(**{name: float(value) for name, value in data["quality"].items()}),
                layers={int(each["layer"]): _share(each) for each in data["layers"]},
                blocks={str(each["block"]): _share(each) for each in data["blocks"]},
                training={str(each["name"]): _share(each) for each in data["training"]},
                cells={(int(each["layer"]), str(each["block"])): _share(each) for each in data["cells"]},
                methods=methods,
                front=_use(data["front"], list(methods)),
                warnings=tuple(map(str, data["warnings"])),
                advice=tuple(map(str, data.get("advice", ()))),
                evaluations=int(data.get("evaluations", 0)),
            )

    def plot(self) -> Figure:
        """Heat maps and bars as an interactive figure."""
        from autopeft.searching.explain_plots import explain_figure

        return explain_figure(self)

    def still(self, path: Path) -> None:
        """The same as a PNG file; no browser is needed."""
        from autopeft.searching.explain_plots import save_explanation

        save_explanation(self, path)


def shares_by(explanation: Explanation) -> dict[str, Mapping[str, Share]]:
    """Shares by what they are of: `layer`, `block`, `training`; what there are none of is left out."""
    parts: dict[str, Mapping[str, Share]] = {
        "layer": {str(layer): share for layer, share in explanation.layers.items()},
        "block": explanation.blocks,
        "training": explanation.training,
    }
    return {name: shares for name, shares in parts.items() if shares}


def telling(shares: Mapping[str, Share]) -> dict[str, Share]:
    """Those of which one share at least is `LEAST`: the others say nothing but that they explain nothing."""
    return {name: s for name, s in shares.items() if max(s.first, s.total, s.forest) >= LEAST}


def nothing_of(name: str, count: int, left_out: int) -> str:
    """What to say of `left_out` of `count` layers, blocks or rates that explain nothing."""
    what = "rate" if name == "training" else name
    others = f"all {counted(count, what)}" if left_out == count else counted(left_out, f"other {what}")
    return f"{others}: below {LEAST}"


def belief(explanation: Explanation) -> str:
    """How far to believe an explanation."""
    q = explanation.quality
    stopped = f" ({explanation.stopped} stopped early, by where their curves point to)" if explanation.stopped else ""
    return (
        f"From {explanation.observations} evaluations{stopped}. On scores that it has not seen, the surrogate has R2 "
        f"{q.surrogate_r2:.2f} and rank correlation {q.surrogate_rank:.2f}, the forest R2 {q.forest_r2:.2f}."
    )


def explanation_html(explanation: Explanation) -> Html:
    """Advice, shares and warnings, for a notebook."""

    def tables() -> Iterator[Html]:
        for name, shares in shares_by(explanation).items():
            kept = telling(shares)
            rows = [[part, *(f"{v:.3f}" for v in (s.first, s.total, s.forest))] for part, s in kept.items()]
            yield table([name, "alone", "with interactions", "forest"], rows, [0])
            if left_out := len(shares) - len(kept):
                yield tag("p", nothing_of(name, len(shares), left_out))

    lines = [*explanation.advice, *(f"warning: {line}" for line in explanation.warnings)]
    said = tag("ul", *(tag("li", line) for line in lines)) if lines else None
    title = f"Share of the variance of {explanation.score}"
    return joined([tag("p", tag("b", title)), *tables(), said, tag("p", belief(explanation))])


def _share(data: Mapping[str, Any]) -> Share:
    return Share(float(data["first"]), float(data["total"]), float(data["forest"]))


def _use(data: Mapping[str, Any], blocks: list[str]) -> FrontUse:
    cells = data["cells"]
    shape = (1 + max((int(c["layer"]) for c in cells), default=-1), len(blocks))
    # Another file than ours may have one cell that claims a million layers.
    if shape[0] * shape[1] > len(cells):
        raise ValueError("it lacks layers of the front")
    counts, sizes = np.zeros(shape, dtype=int), np.zeros(shape)
    for cell in cells:
        at = int(cell["layer"]), blocks.index(str(cell["block"]))
        counts[at], sizes[at] = int(cell["count"]), float(cell["mean_size"])
    return FrontUse(int(data["members"]), counts, sizes)
