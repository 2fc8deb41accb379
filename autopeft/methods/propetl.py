"""ProPETL: one adapter for all layers, and a binary mask of it in each. Zeng et al. 2023, section 3."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, cast

from autopeft.anatomy import ModelShape
from autopeft.methods._adapter import Bottleneck
from autopeft.methods._base import Kin, Method
from autopeft.methods._masks import straight_through
from autopeft.methods._weights import Weight

if TYPE_CHECKING:
    import torch

    from autopeft.methods._bank import Bank

_MASKED = ("down", "up")


@dataclass(frozen=True)
class ProPETL(Bottleneck):
    """A sequential adapter that is one for all layers; each layer takes the share `keep` of its matrices' entries.

    A layer's scores say which: those that are largest within a matrix (gradients go straight through). Biases are
    shared whole. Stored is a bit a score.
    """

    name: ClassVar[str] = "propetl"
    description: ClassVar[str] = "one adapter for all layers with a binary mask in each (ProPETL, Zeng 2023)"
    paper: ClassVar[str] = "Zeng et al. 2023, section 3"
    family: ClassVar[Kin] = "hybrid"
    formula: ClassVar[str] = "2dr (a bit each as stored), and 2dr + r + d a model"
    usual: ClassVar[Mapping[str, Any]] = {"bottleneck": 64}
    size: ClassVar[str] = "bottleneck"
    allowed_sites: ClassVar[tuple[str, ...]] = ("o", "down")
    usual_rate: ClassVar[float] = 5e-3
    stage: ClassVar[int] = 25
    reads: ClassVar[Literal["site", "block", "output"]] = "output"
    exports_folded: ClassVar[bool] = False

    bottleneck: int
    sites: tuple[str, ...] = ("down",)
    keep: float = 0.5
    activation: str = "relu"

    def __post_init__(self) -> None:
        """Check the share too."""
        super().__post_init__()
        self._check_share("keep")

    def weights(self, shape: ModelShape, place: str) -> Mapping[str, Weight]:
        """Scores of the entries of W_down [r, d] and W_up [d, r], normal."""
        r, d = self.bottleneck, shape.hidden
        return {
            "down_scores": Weight((r, d), "normal", bits=1),
            "up_scores": Weight((d, r), "normal", bits=1),
        }

    def shared(self, shape: ModelShape) -> Mapping[str, Weight]:
        """An adapter's weights."""
        return super().weights(shape, "shared")

    def apply(
        self, bank: Bank, output: torch.Tensor, site_input: torch.Tensor, block_input: torch.Tensor | None
    ) -> torch.Tensor:
        """H + the bottleneck of h with this layer's entries of the matrices."""
        r = bank.weight("down_scores").shape[1]
        made = _leading(bank.shared_weight, r, whole=(slice(None),))
        for name in _MASKED:
            made[name] = made[name] * _masks(bank, f"{name}_scores")
        return self.add_bottleneck(bank, output, output, **made)

    def folded(self) -> Method:
        """A sequential adapter of the same bottleneck."""
        from autopeft.methods.sequential import Sequential

        return Sequential(self.bottleneck, self.sites, self.activation)

    def fold(
        self, shape: ModelShape, place: str, weights: Mapping[str, torch.Tensor], shared: Mapping[str, torch.Tensor]
    ) -> dict[str, torch.Tensor]:
        """The shared matrices with zeros where the layer has no part in them."""
        made = _leading(shared.__getitem__, self.bottleneck)
        return made | {name: made[name] * _mask(weights[f"{name}_scores"], self.keep) for name in _MASKED}

    def as_bits(self, weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The masks, of zeros and ones, for the scores: their largest are the same ones."""
        return {name: _mask(scores, self.keep) for name, scores in weights.items()}


def _leading(weight: Callable[[str], torch.Tensor], r: int, whole: tuple[slice, ...] = ()) -> dict[str, torch.Tensor]:
    """The shared adapter's first r units: a layer may have fewer than the largest."""
    return {
        "down": weight("down")[(*whole, slice(0, r))],
        "down_bias": weight("down_bias")[(*whole, slice(0, r))],
        "up": weight("up")[(*whole, slice(None), slice(0, r))],
        "up_bias": weight("up_bias"),
    }


def _masks(bank: Bank, name: str) -> torch.Tensor:
    """[K, ...]: of each candidate, with its scores' gradients."""
    import torch

    scores = bank.weight(name)
    with torch.no_grad():
        hard = torch.zeros_like(scores)
        for k, method in enumerate(bank.methods):
            if method is not None:
                at = bank.corners(k)[name]
                hard[at] = _mask(scores[at], cast(ProPETL, method).keep)
    return straight_through(hard, scores) * bank.own(name)


def _mask(scores: torch.Tensor, keep: float) -> torch.Tensor:
    """1 where scores are among the largest, of which the share `keep` is kept; at least one."""
    left_out = min(int((1 - keep) * scores.numel()), scores.numel() - 1)
    least = scores.detach().flatten().kthvalue(left_out + 1).values
    return (scores >= least).to(scores.dtype)
