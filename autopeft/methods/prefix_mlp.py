"""Prefix tuning through a re-parameterising MLP, dropped after training. Li and Liang 2021, section 4.3."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from autopeft.anatomy import ModelShape
from autopeft.methods._base import Kin, Method, MethodFlops
from autopeft.methods._weights import Weight

if TYPE_CHECKING:
    import torch

    from autopeft.methods._bank import Bank

    _Look = Callable[[str], torch.Tensor]


@dataclass(frozen=True)
class PrefixMLP(Method):
    """[P_k; P_v] = W_2 tanh(W_1 E + b_1) + b_2: embeddings E and W_1 are one for all layers, W_2 is each layer's.

    Folded, it is a flat prefix.
    """

    name: ClassVar[str] = "prefix_mlp"
    description: ClassVar[str] = "prefix through an MLP that is dropped after training (Li and Liang 2021)"
    paper: ClassVar[str] = "Li and Liang 2021, section 4.3"
    family: ClassVar[Kin] = "additive"
    formula: ClassVar[str] = "2 kv (h + 1), and l d + h (d + 1) a model; kept: 2 l kv"
    usual_rate: ClassVar[float] = 0.0015
    usual: ClassVar[Mapping[str, Any]] = {"length": 20}
    size: ClassVar[str] = "length"
    allowed_sites: ClassVar[tuple[str, ...]] = ("attention",)
    stage: ClassVar[int] = 1
    zero_init: ClassVar[bool] = False

    length: int
    sites: tuple[str, ...] = ("attention",)
    hidden: int = 128

    def __post_init__(self) -> None:
        """Check the MLP's width too."""
        super().__post_init__()
        self._check_count("hidden")

    def weights(self, shape: ModelShape, place: str) -> Mapping[str, Weight]:
        """W_2 [2 kv, h] Kaiming and its bias; the same for every length."""
        wide = 2 * shape.kv_heads * shape.head_dim
        return {"up": Weight((wide, self.hidden), "kaiming"), "up_bias": Weight((wide,))}

    def shared(self, shape: ModelShape) -> Mapping[str, Weight]:
        """E [l, d], W_1 [h, d] and its bias."""
        return {
            "embeddings": Weight((self.length, shape.hidden), "normal", 1.0),
            "down": Weight((self.hidden, shape.hidden), "kaiming"),
            "down_bias": Weight((self.hidden,)),
        }

    def bank_options(self) -> tuple[tuple[str, Any], ...]:
        """One bank has one width."""
        return (("hidden", self.hidden),)

    def flops(self, shape: ModelShape, site: str, length: int) -> MethodFlops:
        """Nothing by tokens: the MLP runs once a batch, and its columns cost in the layer's attention."""
        return MethodFlops(0, 0, 0)

    def fixed_flops(self, shape: ModelShape, site: str) -> int:
        """The MLP's two products."""
        wide = 2 * shape.kv_heads * shape.head_dim
        return 2 * self.length * self.hidden * (shape.hidden + wide)

    def attention_columns(self) -> int:
        """One a learned position."""
        return self.length

    def prefix(self, bank: Bank, sequences: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Each candidate's own, for all its sequences."""
        embeddings = bank.shared_weight("embeddings")[:, : max(bank.columns)]
        return _through(embeddings, bank.shared_weight, bank.weight, bank.shape)

    def folded(self) -> Method:
        """A flat prefix of the same length."""
        from autopeft.methods.prefix import Prefix

        return Prefix(self.length, self.sites)

    def fold(
        self, shape: ModelShape, place: str, weights: Mapping[str, torch.Tensor], shared: Mapping[str, torch.Tensor]
    ) -> dict[str, torch.Tensor]:
        """What the MLP says."""
        embeddings = shared["embeddings"][None, : self.length]
        key, value = _through(embeddings, lambda name: shared[name][None], lambda name: weights[name][None], shape)
        return {"key": key[0], "value": value[0]}


def _through(
    embeddings: torch.Tensor, shared: _Look, own: _Look, shape: ModelShape
) -> tuple[torch.Tensor, torch.Tensor]:
    """Keys and values [K, l, G, h] of embeddings [K, l, d]."""
    import torch

    inner = torch.baddbmm(shared("down_bias")[:, None], embeddings, shared("down").transpose(1, 2)).tanh()
    wide = torch.baddbmm(own("up_bias")[:, None], inner, own("up").transpose(1, 2))
    key, value = wide.unflatten(2, (2, shape.kv_heads, shape.head_dim)).unbind(2)
    return key, value
