"""Compacter: adapters whose projections are sums of Kronecker products. Karimi Mahabadi et al. 2021, eq. 2 to 5."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from autopeft.anatomy import ModelShape
from autopeft.errors import AutopeftError
from autopeft.methods._adapter import ACTIVATIONS
from autopeft.methods._base import Kin, Method, MethodFlops
from autopeft.methods._weights import Weight

if TYPE_CHECKING:
    import torch

    from autopeft.methods._bank import Bank


@dataclass(frozen=True)
class Compacter(Method):
    """h + W_up g(W_down h + b) + b, each W the sum over i < n of A_i x (s_i t_i), x the Kronecker product.

    The n matrices A_i [n, n] are one for all layers and both projections.
    """

    name: ClassVar[str] = "compacter"
    description: ClassVar[str] = "adapters of Kronecker products with shared factors (Karimi Mahabadi 2021)"
    paper: ClassVar[str] = "Karimi Mahabadi et al. 2021, equations 2 to 5"
    family: ClassVar[Kin] = "additive"
    formula: ClassVar[str] = "3d + 3r, and n^3 a model"
    usual: ClassVar[Mapping[str, Any]] = {"bottleneck": 24, "sites": ("o", "down")}
    size: ClassVar[str] = "bottleneck"
    step: ClassVar[int] = 4
    allowed_sites: ClassVar[tuple[str, ...]] = ("o", "down")
    stage: ClassVar[int] = 22
    reads: ClassVar[Literal["site", "block", "output"]] = "output"
    exports_folded: ClassVar[bool] = False

    bottleneck: int
    sites: tuple[str, ...] = ("down",)
    n: int = 4
    activation: str = "gelu"

    def __post_init__(self) -> None:
        """Check n and the activation too."""
        super().__post_init__()
        if type(self.n) is not int or self.n not in (1, 2, 4):
            raise self._wrong("n must be 1, 2 or 4", self.n)
        self._check_choice("activation", ACTIVATIONS)

    def weights(self, shape: ModelShape, place: str) -> Mapping[str, Weight]:
        """Rank-one blocks s_i t_i: [n, r/n] and [n, d/n]; the up-projection's t is zero."""
        n, r, d = self.n, self.bottleneck // self.n, shape.hidden // self.n
        if shape.hidden % n:
            raise AutopeftError(f"method '{self.name}': the model's width {shape.hidden} is no multiple of n = {n}")
        return {
            "down_s": Weight((n, r), "normal", 1.0),
            "down_t": Weight((n, d), "normal", (3 * shape.hidden) ** -0.5),
            "down_bias": Weight((n, r)),
            "up_s": Weight((n, d), "normal", 1.0),
            "up_t": Weight((n, r)),
            "up_bias": Weight((shape.hidden,)),
        }

    def shared(self, shape: ModelShape) -> Mapping[str, Weight]:
        """The matrices A [n, n, n]: with them W_down has the variance of Kaiming's."""
        return {"A": Weight((self.n,) * 3, "normal", self.n**-0.5)}

    def flops(self, shape: ModelShape, site: str, length: int) -> MethodFlops:
        """Two thin products forward, as in an adapter; putting the projections together does not depend on tokens."""
        unit, r = 2 * length * shape.hidden, self.bottleneck
        down, up = unit * r, unit * (r + 1)
        return MethodFlops(down + up, down + 2 * up, down)

    def bank_options(self) -> tuple[tuple[str, Any], ...]:
        """One bank has one n and one non-linearity."""
        return (("activation", self.activation), ("n", self.n))

    def apply(
        self, bank: Bank, output: torch.Tensor, site_input: torch.Tensor, block_input: torch.Tensor | None
    ) -> torch.Tensor:
        """H + the bottleneck of h."""
        import torch
        from torch.nn import functional

        down, up = _projections(bank.shared_weight("A"), *(bank.weight(w) for w in _FACTORS))
        bias = bank.weight("down_bias").flatten(1)[:, None].to(output.dtype)
        middle = torch.baddbmm(bias, bank.split(output), down.to(output.dtype).transpose(1, 2))
        return bank.add_product(output, getattr(functional, self.activation)(middle), up, bank.weight("up_bias"))

    def folded(self) -> Method:
        """A sequential adapter of the same bottleneck."""
        from autopeft.methods.sequential import Sequential

        return Sequential(self.bottleneck, self.sites, self.activation)

    def fold(
        self, shape: ModelShape, place: str, weights: Mapping[str, torch.Tensor], shared: Mapping[str, torch.Tensor]
    ) -> dict[str, torch.Tensor]:
        """The projections put together."""
        down, up = _projections(shared["A"][None], *(weights[w][None] for w in _FACTORS))
        bias = weights["down_bias"].flatten()
        return {"down": down[0], "down_bias": bias, "up": up[0], "up_bias": weights["up_bias"]}


_FACTORS = ("down_s", "down_t", "up_s", "up_t")


def _projections(
    a: torch.Tensor, down_s: torch.Tensor, down_t: torch.Tensor, up_s: torch.Tensor, up_t: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """W_down [K, r, d] and W_up [K, d, r]."""
    return _kronecker(a, down_s, down_t), _kronecker(a, up_s, up_t)


def _kronecker(a: torch.Tensor, s: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    """The sum over i of A_i [n, n] x (s_i t_i), for each candidate: [K, n |s|, n |t|]."""
    block = s[:, :, None, :, None, None] * t[:, :, None, None, None, :]
    products = (a[:, :, :, None, :, None] * block).sum(1)
    return products.flatten(3).flatten(1, 2)
