"""How a trained hybrid came about, as steps that can be followed again: trained, then cut and healed, again and again.

A recipe is a value. Read from a file it is data: all of it is bounded before anything is built from it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import BeforeValidator, Field, PlainSerializer, PlainValidator

from autopeft.config import Strict, parse
from autopeft.costs import COSTS
from autopeft.doors import within
from autopeft.engine.settings import TrainingSettings
from autopeft.errors import AutopeftError, shown, suggest
from autopeft.hybrid import Hybrid
from autopeft.training_spec import Training

S = TypeVar("S", bound=Strict)
#: The file of an export that holds one.
FILE = "hybrid.json"

#: By what a cut chooses its units: their first-order effect on the loss (see `autopeft.engine.importance`).
Importance = Literal["first_order"]
#: Cuts of one recipe: halves of a billion parameters are thirty.
_MOST_CUTS = 200
#: What a candidate may set for itself.


def _rates(given: Any) -> Any:
    """Only what a candidate may set, within the bounds that the settings have."""
    if isinstance(given, dict):
        for name in given:
            if name not in Training.model_fields:
                raise AutopeftError(f"training: unknown key {shown(name)}; {suggest(name, Training.model_fields)}")
        parse(TrainingSettings, given, "training")
    return given


def _hybrid(given: Any) -> Hybrid:
    return given if isinstance(given, Hybrid) else Hybrid.from_json(given)


def _cost(name: Any) -> Any:
    if not isinstance(name, str) or name not in COSTS.names():
        raise AutopeftError(f"cost: unknown cost {shown(name)}; {suggest(name, COSTS.names())}")
    return name


_Hybrid = Annotated[Hybrid, PlainValidator(_hybrid), PlainSerializer(Hybrid.to_json)]
_Rates = Annotated[dict[str, float], BeforeValidator(_rates)]
_Epochs = Annotated[int, Field(ge=1, le=10_000)]


class Trained(Strict):
    """A training from drawn weights: of the hybrid `train`, with its own rates over the experiment's settings."""

    train: _Hybrid
    training: _Rates
    epochs: _Epochs
    seed: int = Field(ge=0, lt=2**32)


class Cut(Strict):
    """What came before, made smaller: to `limit` on a cost, for sequences of `length` tokens where that matters.

    `hybrid` is what came out; with another seed or on other data it may be another one where `sizes` are chosen by
    importance over all places. Where they are given, each place keeps as many units as the hybrid has there.
    """

    cost: Annotated[str, BeforeValidator(_cost)]
    limit: int = Field(ge=0)
    length: int = Field(ge=1, le=2**20)
    importance: Importance = "first_order"
    sizes: Literal["chosen", "given"] = "chosen"
    hybrid: _Hybrid


class Healing(Strict):
    """The training that follows a cut, from the weights that it left."""

    training: _Rates
    epochs: _Epochs


class _CutStep(Strict):
    cut: Cut


class _HealStep(Strict):
    heal: Healing


@dataclass(frozen=True)
class Recipe:
    """A training from drawn weights, and the cuts that follow it, each with its healing.

    All steps have the seed of the first.
    """

    first: Trained
    cuts: tuple[tuple[Cut, Healing], ...] = ()

    @property
    def seed(self) -> int:
        """Of initial weights and of the order of the data."""
        return self.first.seed

    @property
    def hybrids(self) -> list[Hybrid]:
        """What is trained in each step, the largest first."""
        return [self.first.train, *(cut.hybrid for cut, _ in self.cuts)]

    @property
    def lengths(self) -> list[int]:
        """Epochs of each step."""
        return [self.first.epochs, *(healing.epochs for _, healing in self.cuts)]

    @property
    def hybrid(self) -> Hybrid:
        """What came out."""
        return self.hybrids[-1]

    @property
    def epochs(self) -> int:
        """Of all steps together."""
        return sum(self.lengths)

    @property
    def fixed(self) -> Recipe:
        """What came out trained from drawn weights, as long as all steps took, at the rates of the last."""
        training = self.cuts[-1][1].training if self.cuts else self.first.training
        changes = {"train": self.hybrid, "training": training, "epochs": self.epochs}
        return Recipe(self.first.model_copy(update=changes))

    def with_seed(self, seed: int) -> Recipe:
        """The same from another seed."""
        return replace(self, first=self.first.model_copy(update={"seed": seed}))

    def to_json(self) -> list[dict[str, Any]]:
        """`[{"train", "training", "epochs", "seed"}, {"cut": ...}, {"heal": ...}, ...]`, read back by `from_json`."""
        steps = [self.first.model_dump(mode="json")]
        for cut, healing in self.cuts:
            steps += [{"cut": cut.model_dump(mode="json")}, {"heal": healing.model_dump(mode="json")}]
        return steps

    @classmethod
    def from_json(cls, steps: Any, where: str) -> Self:
        """The recipe that `to_json` wrote; `AutopeftError` with `where` and the step that is wrong."""
        if not isinstance(steps, Sequence) or isinstance(steps, str) or not steps:
            raise AutopeftError(f"{where}: expected a list of steps, {{'train': ...}} first")
        if len(steps) > 1 + 2 * _MOST_CUTS:
            raise AutopeftError(f"{where}: {len(steps):,} steps; at most {_MOST_CUTS} cuts are allowed")
        if len(steps) % 2 == 0:
            raise AutopeftError(f"{where}, step {len(steps)}: a cut is followed by {{'heal': ...}}")
        first = _step(Trained, steps[0], where, 1)
        cuts = tuple(
            (_step(_CutStep, steps[i], where, i + 1).cut, _step(_HealStep, steps[i + 1], where, i + 2).heal)
            for i in range(1, len(steps) - 1, 2)
        )
        depths = {len(hybrid.layers) for hybrid in (first.train, *(cut.hybrid for cut, _ in cuts))}
        if len(depths) > 1:
            raise AutopeftError(f"{where}: its hybrids are made for different numbers of layers ({sorted(depths)})")
        return cls(first, cuts)


def _step(kind: type[S], step: Any, where: str, number: int) -> S:
    place = f"{where}, step {number}"
    if not isinstance(step, dict):
        raise AutopeftError(f"{place}: expected a mapping, not {shown(step)}")
    with within(place):
        return parse(kind, step, place)
