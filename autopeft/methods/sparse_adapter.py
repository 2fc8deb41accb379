"""SparseAdapter: an adapter that is pruned before it is trained. He et al. 2022 (SparseAdapter), section 2."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, cast

from autopeft.anatomy import ModelShape
from autopeft.methods._adapter import Bottleneck
from autopeft.methods._base import Kin, Method
from autopeft.methods._masks import drawn, keep_all, keep_largest
from autopeft.methods._weights import Weight

if TYPE_CHECKING:
    import torch

    from autopeft.methods._bank import Bank

SCORES = ("magnitude", "random", "snip")
_MASKED = ("down", "up")
#: Batches over which SNIP's gradients are taken.
_BATCHES = 4


@dataclass(frozen=True)
class SparseAdapter(Bottleneck):
    """A sequential adapter of whose matrices the share `keep` is left, over all its places, by a score at the start.

    `score`: "snip" (|w dL/dw|, Lee et al. 2019), "magnitude" (|w|) or "random". Large-Sparse of the paper is a larger
    bottleneck with a smaller share. Stored are the entries that are left, and a bit for each as a map of them.
    """

    name: ClassVar[str] = "sparse_adapter"
    description: ClassVar[str] = "adapter pruned before training, by a score over all layers (SparseAdapter, He 2022)"
    paper: ClassVar[str] = "He et al. 2022 (SparseAdapter), section 2"
    family: ClassVar[Kin] = "hybrid"
    formula: ClassVar[str] = "keep 2dr + r + d"
    usual: ClassVar[Mapping[str, Any]] = {"bottleneck": 64, "keep": 0.2}
    size: ClassVar[str] = "bottleneck"
    allowed_sites: ClassVar[tuple[str, ...]] = ("o", "down")
    usual_rate: ClassVar[float] = 3e-3
    stage: ClassVar[int] = 24
    reads: ClassVar[Literal["site", "block", "output"]] = "output"
    zero_init: ClassVar[bool] = False
    exports_folded: ClassVar[bool] = False

    bottleneck: int
    sites: tuple[str, ...] = ("down",)
    keep: float = 0.2
    score: str = "snip"
    activation: str = "relu"

    def __post_init__(self) -> None:
        """Check the share and the score too."""
        super().__post_init__()
        self._check_share("keep")
        self._check_choice("score", SCORES)

    def weights(self, shape: ModelShape, place: str) -> Mapping[str, Weight]:
        """An adapter's, both matrices normal as a zero has no score; masks of as many entries of each, drawn.

        The masks of the start are those of other layers too once they are scored: the sum is what counts.
        """
        r, d = self.bottleneck, shape.hidden
        kept = max(2, round(2 * d * r * self.keep))
        down, up = kept // 2, kept - kept // 2
        return {
            "down": Weight((r, d), "normal", 0.01, kept=down),
            "down_bias": Weight((r,)),
            "up": Weight((d, r), "normal", 0.01, kept=up),
            "up_bias": Weight((d,)),
            "down_mask": Weight((r, d), drawn(down), kind="written", bits=1),
            "up_mask": Weight((d, r), drawn(up), kind="written", bits=1),
        }

    def apply(
        self, bank: Bank, output: torch.Tensor, site_input: torch.Tensor, block_input: torch.Tensor | None
    ) -> torch.Tensor:
        """H + the bottleneck of h with what is left of the matrices."""
        return self.add_bottleneck(bank, output, output, **_left(bank.weight))

    @classmethod
    def prepare(cls, banks: Sequence[Bank], gradients: Callable[[int], None]) -> None:
        """Prune; where masks are random, they are as drawn."""
        scores = {cast(SparseAdapter, m).score for bank in banks for m in bank.methods if m is not None}
        if "magnitude" in scores:
            keep_largest(banks, _MASKED, lambda bank, name: bank.weight(name).abs(), _by("magnitude"))
        if "snip" not in scores:
            return
        before = {(bank, name): bank.weight(f"{name}_mask").clone() for bank in banks for name in _MASKED}
        for bank, name in before:
            keep_all(bank, name)
        gradients(_BATCHES)
        for (bank, name), mask in before.items():
            bank.weight(f"{name}_mask").copy_(mask)
        keep_largest(banks, _MASKED, _sensitivity, _by("snip"))

    def folded(self) -> Method:
        """A sequential adapter of the same bottleneck."""
        from autopeft.methods.sequential import Sequential

        return Sequential(self.bottleneck, self.sites, self.activation)

    def fold(
        self, shape: ModelShape, place: str, weights: Mapping[str, torch.Tensor], shared: Mapping[str, torch.Tensor]
    ) -> dict[str, torch.Tensor]:
        """Matrices with zeros where they are pruned."""
        return {name: weights[name] for name in ("down_bias", "up_bias")} | _left(weights.__getitem__)


def _left(weight: Callable[[str], torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: weight(name) * weight(f"{name}_mask") for name in _MASKED}


def _sensitivity(bank: Bank, name: str) -> torch.Tensor:
    """SNIP: how the loss changes to first order when an entry is left out."""
    weight = bank.weight(name)
    assert weight.grad is not None, "gradients were taken"
    return (weight.detach() * weight.grad).abs()


def _by(score: str) -> Callable[[Method], bool]:
    return lambda method: cast(SparseAdapter, method).score == score
