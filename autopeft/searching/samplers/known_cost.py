"""One Gaussian process for the score, exact costs, and the expected hypervolume improvement in closed form."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from autopeft.errors import AutopeftError
from autopeft.searching.problem import Problem
from autopeft.searching.samplers._base import SamplerPlugin

if TYPE_CHECKING:
    from optuna.samplers import BaseSampler


class KnownCostPlugin(SamplerPlugin):
    """`startup` trials are manual configurations and points spread over the cost axis; then the largest improvement.

    What hypervolume is improved: with `axis` log, that over the logarithm of the costs, so that each decade of them
    counts the same. Any number of costs may be objectives, and exactly one score.
    """

    name: ClassVar[str] = "known_cost"
    description: ClassVar[str] = (
        "a Gaussian process of the score, costs exact, analytic hypervolume improvement (default)"
    )

    # Its proposals are within the budget, and the improvement weighs cost.
    spread: ClassVar[bool] = False

    startup: int = Field(8, ge=1, le=1_000_000, description="trials of the starting design")
    axis: Literal["log", "linear"] = Field("log", description="of the costs, when hypervolume is measured; or linear")

    def check(self, problem: Problem) -> None:
        """Exactly one score."""
        scores = [o.metric for o in problem.objectives if not o.is_cost]
        if len(scores) != 1:
            raise AutopeftError(
                f"sampler 'known_cost': needs exactly one score among the objectives, there are {len(scores)} "
                f"({', '.join(scores) or 'costs only'}); name one, or use the sampler 'tpe' or 'nsga2'"
            )

    def make(self, seed: int, problem: Problem) -> BaseSampler:
        """The sampler, as an Optuna one."""
        from autopeft.searching.known_cost.sampler import KnownCostSampler

        return KnownCostSampler(problem, seed, self.seed, self.startup, self.axis)
