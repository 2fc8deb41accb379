"""P-tuning: a prompt through an encoder that is dropped after training. Liu et al. 2021, section 3.2."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from autopeft.anatomy import ModelShape
from autopeft.methods._adapter import ACTIVATIONS
from autopeft.methods._base import Method
from autopeft.methods._prompt import SoftPrompt
from autopeft.methods._weights import Weight

if TYPE_CHECKING:
    import torch

    from autopeft.methods._bank import Bank


@dataclass(frozen=True)
class PTuning(SoftPrompt):
    """W_3 g(W_2 g(W_1 E + b_1) + b_2) + b_3 of embeddings E [l, d], by an MLP of `hidden` units.

    With g = ReLU it is PEFT's encoder "MLP"; the paper has an LSTM before it. Folded, it is a prompt of that length.
    """

    name: ClassVar[str] = "p_tuning"
    description: ClassVar[str] = "a prompt through an MLP that is dropped after training (Liu et al. 2021)"
    paper: ClassVar[str] = "Liu et al. 2021, section 3.2"
    formula: ClassVar[str] = "l d + h (d + 1) + h (h + 1) + d (h + 1) a model; kept: l d"
    usual_rate: ClassVar[float] = 0.02
    usual: ClassVar[Mapping[str, Any]] = {"length": 20}
    stage: ClassVar[int] = 1
    unit_axes: ClassVar[Mapping[str, int] | None] = {"embeddings": 0}

    length: int
    sites: tuple[str, ...] = ("input",)
    hidden: int = 128
    activation: str = "relu"

    def __post_init__(self) -> None:
        """Check the MLP's width and activation too."""
        super().__post_init__()
        self._check_choice("activation", ACTIVATIONS)
        self._check_count("hidden")

    def weights(self, shape: ModelShape, place: str) -> Mapping[str, Weight]:
        """E [l, d], and the MLP's three maps with their biases."""
        wide, inner = shape.width(place)[0], self.hidden
        return {
            "embeddings": Weight((self.length, wide), "normal", 1.0),
            "first": Weight((inner, wide), "kaiming"),
            "first_bias": Weight((inner,)),
            "second": Weight((inner, inner), "kaiming"),
            "second_bias": Weight((inner,)),
            "third": Weight((wide, inner), "kaiming"),
            "third_bias": Weight((wide,)),
        }

    def bank_options(self) -> tuple[tuple[str, Any], ...]:
        """One bank has one width and one non-linearity."""
        return ("hidden", self.hidden), ("activation", self.activation)

    def fixed_flops(self, shape: ModelShape, site: str) -> int:
        """The MLP."""
        return 2 * self.length * self.hidden * (2 * shape.width(site)[0] + self.hidden)

    def prompt(self, bank: Bank) -> torch.Tensor:
        """What the MLP says."""
        return _through(bank.weight, self.activation)

    def folded(self) -> Method:
        """A prompt of the same length."""
        from autopeft.methods.prompt_tuning import PromptTuning

        return PromptTuning(self.length, self.sites)

    def fold(
        self, shape: ModelShape, place: str, weights: Mapping[str, torch.Tensor], shared: Mapping[str, torch.Tensor]
    ) -> dict[str, torch.Tensor]:
        """What the MLP says."""
        return {"prompt": _through(lambda name: weights[name][None], self.activation)[0]}


def _through(weight: Callable[[str], torch.Tensor], activation: str) -> torch.Tensor:
    """The prompts [K, l, d] of weights [K, ...]."""
    import torch
    from torch.nn import functional

    x = weight("embeddings")
    for name in ("first", "second", "third"):
        x = x if name == "first" else getattr(functional, activation)(x)
        x = torch.baddbmm(weight(f"{name}_bias")[:, None], x, weight(name).transpose(1, 2))
    return x
