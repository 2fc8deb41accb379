"""What AdaLoRA and IncreLoRA share: W + scale P diag(e) Q, and how much each triplet matters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, cast

from autopeft.anatomy import ModelShape
from autopeft.methods._base import Method
from autopeft.methods._candidates import count_of
from autopeft.methods._weights import Weight
from autopeft.methods.lora import LoRA

if TYPE_CHECKING:
    import torch

    from autopeft.methods._bank import Bank

_TRAINED = ("A", "E", "B")
#: Decay of the averages of sensitivity and of its uncertainty (AdaLoRA, equations 10 and 11).
_BETA1 = _BETA2 = 0.85
#: Weight of the orthogonality of P and Q (AdaLoRA, equation 4).
_ORTHOGONALITY = 0.1


@dataclass(frozen=True)
class Triplets(LoRA):
    """Singular triplets: columns of P (here B [out, r]), values e (E [r]) and rows of Q (A [r, in]).

    `keep` is the share of all triplets of a candidate that are there at the end; where its places have different ones,
    each counts by its rank.
    """

    formula: ClassVar[str] = "r (in + out + 1)"
    usual_rate: ClassVar[float] = 0.006
    usual: ClassVar[Mapping[str, Any]] = {"rank": 12, "sites": ("q", "v"), "alpha": 24}
    unit_axes: ClassVar[Mapping[str, int] | None] = {"A": 0, "E": 0, "B": 1}

    keep: float = 2 / 3

    def __post_init__(self, alpha: float | None, rank_stabilised: bool) -> None:
        """Check the share too."""
        super().__post_init__(alpha, rank_stabilised)
        self._check_share("keep")

    def weights(self, shape: ModelShape, place: str) -> Mapping[str, Weight]:
        """A and B normal, E zero; for each an average of its sensitivity and of that one's uncertainty."""
        wide_in, wide_out = shape.width(place)
        sizes = {"A": (self.rank, wide_in), "E": (self.rank,), "B": (wide_out, self.rank)}
        trained = {
            "A": Weight(sizes["A"], "normal"),
            "E": Weight(sizes["E"]),
            "B": Weight(sizes["B"], columns_first),
        }
        averages = {f"{w}_{kind}": Weight(sizes[w], kind="state") for w in _TRAINED for kind in ("mean", "spread")}
        return trained | averages

    def apply(
        self, bank: Bank, output: torch.Tensor, site_input: torch.Tensor, block_input: torch.Tensor | None
    ) -> torch.Tensor:
        """Output + scale P (e * Q x)."""
        middle = bank.compress(site_input, "A") * bank.weight("E")[:, None].to(site_input.dtype)
        return bank.add_expanded(output, middle, "B")

    @classmethod
    def penalty(cls, banks: Sequence[Bank]) -> torch.Tensor | None:
        """How far P and Q are from orthogonal, [K]: a mean over the candidate's own places."""
        import torch

        total = banks[0].scale.new_zeros(count_of(banks))
        count = torch.zeros_like(total)
        for bank in banks:
            here = len(bank.methods)
            far = _distance(bank, bank.weight("A")) + _distance(bank, bank.weight("B").transpose(1, 2))
            total = total + torch.nn.functional.pad(far, (0, len(total) - here))
            count[:here] += bank.per_candidate(lambda m: 1)
        return _ORTHOGONALITY * total / count.clamp(min=1)

    def canonical(self, weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Singular triplets in truth: e are the values, and rows and columns orthonormal."""
        from autopeft.methods._singular import singular

        b, e, a = singular(weights["A"], weights["B"] * weights["E"])
        return {**weights, "A": a, "E": e, "B": b}

    def folded(self) -> Method:
        """LoRA of the same rank."""
        return LoRA(self.rank, self.sites, self.scale)

    def fold(
        self, shape: ModelShape, place: str, weights: Mapping[str, torch.Tensor], shared: Mapping[str, torch.Tensor]
    ) -> dict[str, torch.Tensor]:
        """A's rows times e."""
        return {"A": weights["A"] * weights["E"][:, None], "B": weights["B"]}


def columns_first(shape: tuple[int, ...], generator: torch.Generator) -> torch.Tensor:
    """Normal [out, r], drawn column by column: a smaller rank has the first columns of a larger one."""
    import torch

    return (torch.randn(shape[::-1], generator=generator) * 0.02).T.contiguous()


def _distance(bank: Bank, rows: torch.Tensor) -> torch.Tensor:
    """|R R^T - I|^2 of the own rows R [K, r, n], [K]."""
    import torch

    own = bank.own("E")
    gram = torch.bmm(rows, rows.transpose(1, 2))
    return (gram - torch.diag_embed(own)).square().sum((1, 2))


def watch(banks: Sequence[Bank]) -> None:
    """Average |w dL/dw| of each weight, and how uncertain that is (AdaLoRA, equations 10 and 11)."""
    for bank in banks:
        for name in _TRAINED:
            weight = bank.weight(name)
            if weight.grad is None:
                continue
            seen = (weight * weight.grad).abs()
            mean, spread = bank.weight(f"{name}_mean"), bank.weight(f"{name}_spread")
            mean.lerp_(seen, 1 - _BETA1)
            spread.lerp_((seen - mean).abs(), 1 - _BETA2)


def importance(bank: Bank) -> torch.Tensor:
    """[K, r]: of each triplet (AdaLoRA, equation 7)."""
    a, e, b = (bank.weight(f"{name}_mean") * bank.weight(f"{name}_spread") for name in _TRAINED)
    return e + a.mean(2) + b.mean(1)


def kept_of(own: Sequence[Bank], k: int) -> int:
    """How many triplets of candidate k are left at the end, over all its banks."""
    totals: dict[float, int] = {}
    for bank in own:
        method = cast(Triplets, bank.methods[k])
        totals[method.keep] = totals.get(method.keep, 0) + method.rank
    return round(sum(keep * total for keep, total in totals.items()))
