"""Uniform sampling: the baseline, and what the others start with."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from autopeft.searching.samplers._base import SamplerPlugin

if TYPE_CHECKING:
    from optuna.samplers import BaseSampler

    from autopeft.searching.problem import Problem


class RandomPlugin(SamplerPlugin):
    """Every dimension uniform on its own scale."""

    name: ClassVar[str] = "random"
    description: ClassVar[str] = "uniform over the space (Bergstra and Bengio 2012)"

    def make(self, seed: int, problem: Problem) -> BaseSampler:
        """Optuna's `RandomSampler`."""
        from optuna.samplers import RandomSampler

        return RandomSampler(seed=seed)
