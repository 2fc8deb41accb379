"""PASTA: a trained vector on each special token before each layer. Yang et al. 2023, equation 1."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from autopeft.anatomy import ModelShape
from autopeft.methods._base import Kin, Method, MethodFlops
from autopeft.methods._weights import Weight

if TYPE_CHECKING:
    import torch

    from autopeft.methods._bank import Bank


@dataclass(frozen=True)
class PASTA(Method):
    """h_i + v_p where token i is the p-th special token of its text, p < `tokens`.

    The first token of a text is special, and so is every one with the id that ends it ([CLS] and each [SEP] in BERT).
    """

    name: ClassVar[str] = "pasta"
    description: ClassVar[str] = "a vector on each special token before each layer (PASTA, Yang 2023)"
    paper: ClassVar[str] = "Yang et al. 2023, equation 1"
    family: ClassVar[Kin] = "additive"
    formula: ClassVar[str] = "s d"
    usual_rate: ClassVar[float] = 0.01
    usual: ClassVar[Mapping[str, Any]] = {"tokens": 3}
    size: ClassVar[str] = "tokens"
    largest: ClassVar[int] = 16
    allowed_sites: ClassVar[tuple[str, ...]] = ("layer_in",)
    stage: ClassVar[int] = 1
    adds: ClassVar[bool] = True
    random_init: ClassVar[bool] = False
    reads_batch: ClassVar[bool] = True

    tokens: int
    sites: tuple[str, ...] = ("layer_in",)

    def weights(self, shape: ModelShape, place: str) -> Mapping[str, Weight]:
        """Vectors [s, d], zero."""
        return {"vectors": Weight((self.tokens, shape.hidden))}

    def flops(self, shape: ModelShape, site: str, length: int) -> MethodFlops:
        """No products of matrices."""
        return MethodFlops(0, 0, 0)

    def apply(
        self, bank: Bank, output: torch.Tensor, site_input: torch.Tensor, block_input: torch.Tensor | None
    ) -> torch.Tensor:
        """The layer's input, changed at special tokens."""
        import torch

        vectors = bank.own_weight("vectors").to(output.dtype)
        # [K, s + 1, d]: the last one is of tokens that are not special.
        table = torch.cat([vectors, vectors.new_zeros(len(vectors), 1, vectors.shape[2])], dim=1)
        number = _special(bank, output, vectors.shape[1])
        per_candidate = output.shape[0] // len(table)
        rows = table.repeat_interleave(per_candidate, dim=0)
        return output + rows.gather(1, number[..., None].expand(-1, -1, output.shape[-1]))


def _special(bank: Bank, hidden: torch.Tensor, most: int) -> torch.Tensor:
    """[N, L]: which special token each is, from 0 up; `most` for others, and for those beyond."""
    import torch

    sequences, length = hidden.shape[:2]
    ids, mask = bank.place.rows("input_ids", sequences), bank.place.rows("attention_mask", sequences)
    real = torch.ones(sequences, length, dtype=torch.bool, device=hidden.device) if mask is None else mask.bool()
    place = torch.arange(length, device=hidden.device).expand(sequences, -1)
    first = place.masked_fill(~real, length).amin(1, keepdim=True)
    last = place.masked_fill(~real, -1).amax(1, keepdim=True).clamp(min=0)
    ends = place == last if ids is None else ids == ids.gather(1, last)
    special = ((place == first) | ends) & real
    number = special.cumsum(1) - 1
    return torch.where(special & (number < most), number, most)
