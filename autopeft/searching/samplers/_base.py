"""What a sampler plug-in is: options as they stand in a YAML, and the Optuna sampler that they make."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from autopeft.config import Strict

if TYPE_CHECKING:
    from optuna.samplers import BaseSampler

    from autopeft.searching.problem import Problem


class SamplerPlugin(Strict):
    """Options of one Optuna sampler.

    Invariants (held for every plug-in by the conformance suite): a sampler that `make` returns keeps nothing between
    two proposals that is not in the study, so a fresh one with the same seed proposes the same; it goes on after failed
    trials, and with other trials still running.
    """

    name: ClassVar[str]
    #: One line for `autopeft list samplers`.
    description: ClassVar[str]

    #: False when it decides itself how much its proposals cost: only what it draws uniformly is then spread over costs.
    spread: ClassVar[bool] = True

    #: Whether the front of another search (`Prior`) is proposed before its own points.
    takes_prior: ClassVar[bool] = True

    #: Whether its proposals are meant as they are: none is moved for a nearby learning rate, and no range is widened.
    exact: ClassVar[bool] = False

    seed: int = Field(0, ge=0, lt=2**32)

    def check(self, problem: Problem) -> None:
        """`AutopeftError` for a problem that this sampler cannot serve."""
        return

    @abstractmethod
    def make(self, seed: int, problem: Problem) -> BaseSampler:
        """A fresh Optuna sampler; `seed` is the proposal's own, drawn from the field `seed` and the trial's number."""
