"""Non-dominated sorting genetic algorithm II. Deb et al. 2002."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from autopeft.searching.samplers._base import SamplerPlugin

if TYPE_CHECKING:
    from optuna.samplers import BaseSampler

    from autopeft.searching.problem import Problem


class NSGA2Plugin(SamplerPlugin):
    """Generations of `population` trials; children by uniform crossover, one mutated dimension on average."""

    name: ClassVar[str] = "nsga2"
    description: ClassVar[str] = "genetic algorithm with non-dominated sorting (Deb 2002)"

    population: int = Field(20, ge=2, le=10_000, description="trials of a generation")
    crossover: float = Field(0.9, ge=0, le=1, description="probability")

    def make(self, seed: int, problem: Problem) -> BaseSampler:
        """Optuna's `NSGAIISampler`; it keeps its generations in the study."""
        from optuna.samplers import NSGAIISampler

        return NSGAIISampler(seed=seed, population_size=self.population, crossover_prob=self.crossover)
