"""Prefix tuning: K <- [P_k; K], V <- [P_v; V]. Li and Liang 2021, equation 3."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from autopeft.anatomy import ModelShape
from autopeft.methods._base import Kin, MethodFlops
from autopeft.methods._gate import Gated, gate_option
from autopeft.methods._weights import Weight

if TYPE_CHECKING:
    import torch

    from autopeft.methods._bank import Bank


@dataclass(frozen=True)
class Prefix(Gated):
    """`length` learned keys and values in a layer's attention (flat, without a re-parameterising MLP).

    With `gated` a text's own gate, of what attention is given, scales them.
    """

    name: ClassVar[str] = "prefix"
    description: ClassVar[str] = "learned keys and values in each attention (Li and Liang 2021)"
    paper: ClassVar[str] = "Li and Liang 2021, equation 3"
    family: ClassVar[Kin] = "additive"
    formula: ClassVar[str] = "2 l (key / value heads x head width)"
    usual_rate: ClassVar[float] = 0.01
    usual: ClassVar[Mapping[str, Any]] = {"length": 20}
    size: ClassVar[str] = "length"
    allowed_sites: ClassVar[tuple[str, ...]] = ("attention",)
    stage: ClassVar[int] = 0
    zero_init: ClassVar[bool] = False
    peft_type: ClassVar[str | None] = "PREFIX_TUNING"
    unit_axes: ClassVar[Mapping[str, int] | None] = {"key": 0, "value": 0}

    length: int
    sites: tuple[str, ...] = ("attention",)
    gated: bool = gate_option()

    def __post_init__(self) -> None:
        """Check the gate too."""
        super().__post_init__()
        self._check_gate(Prefix)

    def weights(self, shape: ModelShape, place: str) -> Mapping[str, Weight]:
        """Keys and values [l, key/value heads, head width], normal with standard deviation 0.02; the gate."""
        size = (self.length, shape.kv_heads, shape.head_dim)
        return {"key": Weight(size, "normal"), "value": Weight(size, "normal")} | self.gate_weights(shape.hidden)

    def flops(self, shape: ModelShape, site: str, length: int) -> MethodFlops:
        """Nothing of its own: its columns cost in the layer's attention (see `attention_columns`)."""
        return MethodFlops(0, 0, 0)

    def attention_columns(self) -> int:
        """One a learned position."""
        return self.length

    def prefix(self, bank: Bank, sequences: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Each candidate's own for all its sequences, or as each sequence's gate scales them."""
        key, value = bank.weight("key"), bank.weight("value")
        rows = self.row_scale(bank, bank.place.given()) if self.gated else None
        if rows is None:
            return key, value
        own, scale = sequences // len(key), rows[:, None, None, None]
        return key.repeat_interleave(own, 0) * scale, value.repeat_interleave(own, 0) * scale
