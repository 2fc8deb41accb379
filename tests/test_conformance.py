"""The conformance suite can fail: methods that are broken in one way each, and the checks that find them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import conformance
import pytest
import torch
from conformance import Kind, Trial
from tiny_packs import Bench

from autopeft.anatomy import ModelShape
from autopeft.methods._bank import Bank
from autopeft.methods._weights import Weight
from autopeft.methods.lora import LoRA
from autopeft.methods.sequential import Sequential

Tensor = torch.Tensor


class Sound(LoRA):
    """As it should be. A name of its own keeps it out of the banks of what it shares a pack with."""

    name: ClassVar[str] = "toy"


class PaddingIsUsed(Sequential):
    """Its activation does not map 0 to 0, so that units which a candidate lacks get gradients."""

    name: ClassVar[str] = "toy"

    def apply(self, bank: Bank, output: Tensor, *inputs: Any) -> Tensor:
        middle = torch.sigmoid(bank.compress(output, "down", "down_bias"))
        return bank.add_expanded(output, middle, "up", "up_bias")


class Frozen(Sound):
    """As it should be: half of it is frozen."""

    def weights(self, shape: ModelShape, place: str) -> Mapping[str, Weight]:
        return {
            name: replace(w, kind="frozen" if name == "A" else w.kind)
            for name, w in super().weights(shape, place).items()
        }


class FrozenMoves(Frozen):
    """It writes into what it says is frozen."""

    def apply(self, bank: Bank, output: Tensor, *inputs: Any) -> Tensor:
        with torch.no_grad():
            bank.weight("A").mul_(1.01)
        return super().apply(bank, output, *inputs)


class MemoryIsLost(Sound):
    """It keeps something about its candidates that is no weight, and does not survive slicing."""

    def apply(self, bank: Bank, output: Tensor, site_input: Tensor, *inputs: Any) -> Tensor:
        bank.calls = getattr(bank, "calls", 0) + 1
        return bank.add_expanded(output, bank.compress(site_input, "A") * bank.calls, "B")


class PaddingIsNotZero(Sound):
    """It writes into padding."""

    def apply(self, bank: Bank, output: Tensor, *inputs: Any) -> Tensor:
        with torch.no_grad():
            bank.weight("A").add_(1e-3 * (1 - bank.own("A")))
        return super().apply(bank, output, *inputs)


class DrawsByItself(Sound):
    """Its initial weights come from torch's own generator."""

    def weights(self, shape: ModelShape, place: str) -> Mapping[str, Weight]:
        return super().weights(shape, place) | {
            "A": Weight((self.rank, shape.width(place)[0]), lambda size, _: torch.randn(size))
        }


class SizeIsAnothers(Sound):
    """It reads the size off one method, where a bank holds several."""

    def apply(self, bank: Bank, output: Tensor, site_input: Tensor, *inputs: Any) -> Tensor:
        return bank.add_expanded(output, bank.compress(site_input, "A") * self.rank, "B")


class MeanOverThePack(Sound):
    """What it adds gets smaller the more candidates there are."""

    def apply(self, bank: Bank, output: Tensor, site_input: Tensor, *inputs: Any) -> Tensor:
        return bank.add_expanded(output, bank.compress(site_input, "A") / len(bank.sizes), "B")


class AbsentIsThere(Sound):
    """It changes candidates that lack it too."""

    zero_init: ClassVar[bool] = False

    def apply(self, bank: Bank, output: Tensor, *inputs: Any) -> Tensor:
        return super().apply(bank, output, *inputs) + torch.linspace(0, 0.1, output.shape[-1])


class WeightIsDead(Sound):
    """One of its weights is counted and never trained."""

    def apply(self, bank: Bank, output: Tensor, site_input: Tensor, *inputs: Any) -> Tensor:
        return bank.add_expanded(output, bank.compress(site_input, "A").detach(), "B")


class DoesNothing(Sound):
    """It leaves the output alone."""

    def apply(self, bank: Bank, output: Tensor, *inputs: Any) -> Tensor:
        return output


class CountIsWrong(Sound):
    """It says that it has one parameter more than it has."""

    def site_params(self, shape: ModelShape, place: str) -> int:
        return super().site_params(shape, place) + 1


class SizeDoesNotCount(Sound):
    """It says that it has as many parameters whatever its size."""

    def site_params(self, shape: ModelShape, place: str) -> int:
        return 7 * (self.rank > 0)


class AbsentCounts(Sound):
    """It says that the absent method has parameters."""

    def site_params(self, shape: ModelShape, place: str) -> int:
        return super().site_params(shape, place) + 7


class IsNotNeutral(Sound):
    """It changes the output before training, and does not say so."""

    def apply(self, bank: Bank, output: Tensor, *inputs: Any) -> Tensor:
        return super().apply(bank, output, *inputs) * 1.001


class IsNotConstant(Sound):
    """It draws its initial weights, and says that they are constants."""

    random_init: ClassVar[bool] = False


class PenaltyOverItsOwn(Sound):
    """As it should be: a mean over the banks that a candidate has."""

    @classmethod
    def penalty(cls, banks: Sequence[Bank]) -> Tensor:
        own = sum(_padded([float(m is not None) for m in bank.methods], banks) for bank in banks)
        return _squares(banks) / own.clamp(min=1)


class PenaltyOverAll(Sound):
    """The mean over all banks of the pack, whoever has them."""

    @classmethod
    def penalty(cls, banks: Sequence[Bank]) -> Tensor:
        return _squares(banks) / len(banks)


def _squares(banks: Sequence[Bank]) -> Tensor:
    return sum(_padded(bank.weight("A").square().flatten(1).sum(1), banks) for bank in banks)


def _padded(values: Tensor | list[float], banks: Sequence[Bank]) -> Tensor:
    values = torch.as_tensor(values)
    return torch.nn.functional.pad(values, (0, max(len(bank.methods) for bank in banks) - len(values)))


# --- before training -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cls", "check", "said"),
    [
        (CountIsWrong, conformance.check_count, "not what the banks train"),
        (SizeDoesNotCount, conformance.check_count, "not what the banks train"),
        (SizeDoesNotCount, conformance.check_size, "size does not matter"),
        (AbsentCounts, conformance.check_size, "not the absent method"),
        (IsNotNeutral, conformance.check_neutral, "zero_init"),
        (IsNotConstant, conformance.check_seed, "random_init"),
        (DrawsByItself, conformance.check_seed, "without the seed"),
        (DrawsByItself, conformance.check_neighbours, "with the layer below"),
        (WeightIsDead, conformance.check_gradients, "A has no gradient"),
        (DoesNothing, conformance.check_gradients, "has no gradient"),
        (DoesNothing, conformance.check_locality, "unchanged"),
        (DoesNothing, conformance.check_detaching, "does nothing"),
    ],
)
def test_it_is_found_before_training(cls: Kind, check: Callable[[Kind, str], None], said: str) -> None:
    check(Sound, "bert")
    with pytest.raises((AssertionError, RuntimeError), match=said):
        check(cls, "bert")


# --- in training -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return conformance.bench(tmp_path_factory.mktemp("bert"), "bert")


@pytest.fixture(scope="module")
def sound(bench: Bench) -> Trial:
    return conformance.trial(Sound, bench)


CHECKS = [
    conformance.check_the_trial_says_something,
    conformance.check_packed,
    conformance.check_trained,
    conformance.check_kept_apart,
]


@pytest.mark.parametrize("check", CHECKS)
def test_a_sound_method_passes(sound: Trial, check: Callable[[Trial], None]) -> None:
    check(sound)


@pytest.mark.parametrize(
    ("cls", "found"),
    [
        (PaddingIsUsed, {"check_packed", "check_trained", "check_kept_apart"}),
        (SizeIsAnothers, {"check_packed"}),
        (MeanOverThePack, {"check_packed"}),
        (AbsentIsThere, {"check_packed"}),
        (WeightIsDead, {"check_the_trial_says_something", "check_trained"}),
        (CountIsWrong, {"check_trained"}),
        (PaddingIsNotZero, {"check_packed", "check_trained", "check_kept_apart"}),
        (Frozen, set()),
        (FrozenMoves, {"check_kept_apart"}),
        (MemoryIsLost, {"check_packed"}),
    ],
)
def test_it_is_found_in_training(cls: Kind, found: set[str], bench: Bench) -> None:
    trial = conformance.trial(cls, bench)
    assert set(_complaints(trial)) == found


@pytest.mark.parametrize(("cls", "found"), [(PenaltyOverItsOwn, set()), (PenaltyOverAll, {"check_packed"})])
def test_a_penalty_of_the_company_is_found(cls: Kind, found: set[str], bench: Bench) -> None:
    assert set(_complaints(conformance.trial(cls, bench))) == found


def _complaints(trial: Trial) -> Iterator[str]:
    for check in CHECKS:
        try:
            check(trial)
        except AssertionError:
            yield check.__name__
