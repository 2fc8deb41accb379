"""AdaMix: a mixture of down-projections, one drawn a step, merged into one. Wang et al. 2022, equations 1 to 6."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, cast

from autopeft.anatomy import ModelShape
from autopeft.methods._adapter import Bottleneck
from autopeft.methods._base import Kin, Method
from autopeft.methods._weights import Weight
from autopeft.readouts import IGNORED

if TYPE_CHECKING:
    import torch

    from autopeft.engine.procedures import Moment
    from autopeft.methods._bank import Bank

_MOST_EXPERTS = 64


@dataclass(frozen=True)
class AdaMix(Bottleneck):
    """h + W_up g(W_m h + b_m) + b with m drawn among the `experts` for each pass and place (stochastic routing).

    A second pass with another draw is held to the first by a symmetric KL divergence. Measured, and folded, W and b are
    the means of the experts'.
    """

    name: ClassVar[str] = "adamix"
    description: ClassVar[str] = "adapter with a mixture of down-projections, merged at the end (AdaMix, Wang 2022)"
    paper: ClassVar[str] = "Wang et al. 2022, equations 1 to 6"
    family: ClassVar[Kin] = "hybrid"
    formula: ClassVar[str] = "M (dr + r) + dr + d; kept: 2dr + r + d"
    usual: ClassVar[Mapping[str, Any]] = {"bottleneck": 48}
    size: ClassVar[str] = "bottleneck"
    allowed_sites: ClassVar[tuple[str, ...]] = ("o", "down")
    usual_rate: ClassVar[float] = 3e-3
    stage: ClassVar[int] = 23
    reads: ClassVar[Literal["site", "block", "output"]] = "output"
    twice: ClassVar[bool] = True
    unit_axes: ClassVar[Mapping[str, int] | None] = {"down": 1, "down_bias": 1, "up": 1}

    bottleneck: int
    sites: tuple[str, ...] = ("down",)
    experts: int = 4
    activation: str = "relu"

    def __post_init__(self) -> None:
        """Check the number of experts too."""
        super().__post_init__()
        self._check_count("experts", _MOST_EXPERTS)

    def weights(self, shape: ModelShape, place: str) -> Mapping[str, Weight]:
        """W_m [M, r, d] Kaiming and b_m [M, r]; W_up [d, r] and its bias, zero; the share of each expert [M]."""
        m, r, d = self.experts, self.bottleneck, shape.hidden
        return {
            "down": Weight((m, r, d), "kaiming"),
            "down_bias": Weight((m, r)),
            "up": Weight((d, r)),
            "up_bias": Weight((d,)),
            "share": Weight((m,), _even, kind="state"),
        }

    def apply(
        self, bank: Bank, output: torch.Tensor, site_input: torch.Tensor, block_input: torch.Tensor | None
    ) -> torch.Tensor:
        """H + the bottleneck of h through each candidate's expert, or through the mean."""
        share = bank.weight("share")[..., None]
        bias = (share * bank.weight("down_bias")).sum(1)
        down = (share[..., None] * bank.weight("down")).sum(1)
        return self.add_bottleneck(bank, output, output, down=down, down_bias=bias)

    @classmethod
    def before_step(cls, banks: Sequence[Bank], moment: Moment) -> None:
        """Draw an expert for each candidate and place."""
        import torch

        for bank in banks:
            share = torch.zeros_like(bank.weight("share"))
            for k, method in enumerate(bank.methods):
                if method is not None:
                    experts = cast(AdaMix, method).experts
                    share[k, torch.randint(experts, (), generator=moment.generators[k])] = 1
            # A new tensor: the first pass of a step has read the old one.
            bank.share = share

    @classmethod
    def before_measure(cls, banks: Sequence[Bank]) -> None:
        """All experts take part alike."""
        for bank in banks:
            even = bank.per_candidate(lambda method: 1 / cast(AdaMix, method).experts)
            bank.share = even[:, None] * bank.own("share")

    @classmethod
    def pair_loss(
        cls, banks: Sequence[Bank], first: torch.Tensor, second: torch.Tensor, labels: torch.Tensor
    ) -> torch.Tensor | None:
        """Half the sum of both KL divergences (equation 5); of regression, the mean square between the passes.

        Where each output has a label of its own, yes or no, the divergence is the mean of theirs; of tokens those count
        that have a label.
        """
        if labels.shape == first.shape[1:]:
            return ((first.sigmoid() - second.sigmoid()) * (first - second)).flatten(1).mean(1) / 2
        if first.shape[-1] == 1:
            return (first - second).square().flatten(1).mean(1)
        one, other = first.log_softmax(-1), second.log_softmax(-1)
        apart = ((one.exp() - other.exp()) * (one - other)).sum(-1) / 2
        own = (labels != IGNORED).to(apart.dtype)
        return (apart * own).flatten(1).sum(1) / own.sum().clamp(min=1)

    def folded(self) -> Method:
        """A sequential adapter of the same bottleneck."""
        from autopeft.methods.sequential import Sequential

        return Sequential(self.bottleneck, self.sites, self.activation)

    def fold(
        self, shape: ModelShape, place: str, weights: Mapping[str, torch.Tensor], shared: Mapping[str, torch.Tensor]
    ) -> dict[str, torch.Tensor]:
        """The means of the experts (equation 6)."""
        means = {name: weights[name].mean(0) for name in ("down", "down_bias")}
        return means | {name: weights[name] for name in ("up", "up_bias")}


def _even(shape: tuple[int, ...], generator: torch.Generator) -> torch.Tensor:
    import torch

    return torch.full(shape, 1 / shape[0])
