"""What a sampler may know before anything is trained."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from autopeft.budget import Budget
from autopeft.space import Point, SearchSpace

if TYPE_CHECKING:
    from autopeft.searching.objective import Objective


@dataclass(frozen=True)
class Prior:
    """Another search's candidates (points of the same space) with their scores, larger is better, and its front."""

    points: Sequence[Point]
    scores: Sequence[float]
    front: Sequence[Point]


@dataclass(frozen=True)
class Problem:
    """Space, budget, and the study's objectives in the order of its values; `epochs` of a whole training."""

    space: SearchSpace
    budget: Budget
    objectives: tuple[Objective, ...]
    epochs: int = 1
    prior: Prior | None = None
    #: What a sampler works out once and may keep; a proposal never depends on whether it is there.
    memo: dict[Any, Any] = field(default_factory=dict, compare=False, repr=False)
