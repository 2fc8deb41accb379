"""Tree-structured Parzen estimator. Bergstra et al. 2011; several objectives: Ozaki et al. 2022."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from autopeft.searching.samplers._base import SamplerPlugin

if TYPE_CHECKING:
    from optuna.samplers import BaseSampler

    from autopeft.searching.problem import Problem


class TPEPlugin(SamplerPlugin):
    """`startup` uniform trials first; then the best ratio of good to other densities among `candidates` draws."""

    name: ClassVar[str] = "tpe"
    description: ClassVar[str] = "multivariate Parzen estimators of good and other trials (Bergstra 2011, Ozaki 2022)"

    startup: int = Field(10, ge=1, le=1_000_000, description="random trials at the start")
    candidates: int = Field(24, ge=1, le=10_000, description="drawn for each proposal")

    def make(self, seed: int, problem: Problem) -> BaseSampler:
        """Optuna's `TPESampler`; running trials count as bad ones, so that parallel proposals spread."""
        from optuna.samplers import TPESampler

        return TPESampler(
            seed=seed,
            n_startup_trials=self.startup,
            n_ei_candidates=self.candidates,
            multivariate=True,
            group=False,
            constant_liar=True,
        )
