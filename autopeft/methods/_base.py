"""What every method is: a frozen value that declares its weights and says what they do."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from autopeft.anatomy import ModelShape
from autopeft.methods._folds import Folds
from autopeft.methods._procedure import Procedure
from autopeft.methods._units import Cuts
from autopeft.methods._value import MethodValue
from autopeft.methods._weights import Weight

if TYPE_CHECKING:
    import torch

    from autopeft.methods._bank import Bank


#: How the review sorts methods (Xu et al. 2023, section 3).
Kin = Literal["additive", "partial", "reparameterised", "hybrid", "unified"]


@dataclass(frozen=True)
class MethodFlops:
    """Matrix-multiplication FLOPs (2 a multiply-add) that one method adds at one site for one sequence.

    `backward` is what its own weights cost; `backward_input` comes on top when the gradient must flow on below it.
    """

    forward: int
    backward: int
    backward_input: int


class Method(Folds, Procedure, Cuts, MethodValue):
    """One PEFT method in one layer: sizes, places and options. Every concrete method is a frozen dataclass.

    `weights` declares what it holds at a place; counts, bytes, padding, initial values and saving follow from that.
    Invariants (held for every plug-in by the conformance suite): `num_params` equals the number of weights that its
    bank trains; size 0 is the absent method; the value survives a JSON round trip. A method that changes nothing before
    training says so with `zero_init`.
    """

    #: One line for `autopeft list methods`.
    description: ClassVar[str]
    #: Where it comes from: authors, year, equation.
    paper: ClassVar[str]
    family: ClassVar[Kin]
    #: Trained parameters at a place, for people.
    formula: ClassVar[str]
    #: Methods at one place act in the order of their stages, whatever order they were written in.
    stage: ClassVar[int]
    #: True when the method leaves the network's output unchanged before training.
    zero_init: ClassVar[bool] = True
    #: False when its initial weights are constants.
    random_init: ClassVar[bool] = True
    #: False when it mixes tokens, so that no token may be left out before it.
    tokenwise: ClassVar[bool] = True
    #: True when it asks its place for the batch's token ids or mask, or attention for what it is given.
    reads_batch: ClassVar[bool] = False
    #: What it computes from: the input of its site's linear map, the input of that map's block, or the map's output.
    reads: ClassVar[Literal["site", "block", "output"]] = "site"

    # --- weights, and what follows from them -------------------------------------------------------------------------

    @abstractmethod
    def weights(self, shape: ModelShape, place: str) -> Mapping[str, Weight]:
        """What it holds at one place of one layer, by name. Not asked of the absent method."""

    def shared(self, shape: ModelShape) -> Mapping[str, Weight]:
        """What it holds once a model, for all its places.

        Methods of one kind with equal bank options share one copy in a candidate, of the size of the largest of them.
        """
        return {}

    def places(self, shape: ModelShape) -> tuple[str, ...]:
        """Its sites that a model of this shape has: not every feed-forward network is gated."""
        return tuple(site for site in self.sites if shape.has(site))

    def num_params(self, shape: ModelShape) -> int:
        """Trainable parameters in one layer, over all its places; what is shared by the model is left out."""
        return sum(self.site_params(shape, place) for place in self.places(shape))

    def site_params(self, shape: ModelShape, place: str) -> int:
        """Trainable parameters at one place of one layer."""
        return _counts(self, shape, place)[0]

    def shared_params(self, shape: ModelShape) -> int:
        """Trainable parameters that a model has once."""
        return _counts(self, shape, None)[0]

    def held(self, shape: ModelShape, place: str | None) -> int:
        """Entries at one place of one layer, or once a model (None), of all kinds: what memory holds."""
        return _counts(self, shape, place)[2]

    def kept_params(self, shape: ModelShape) -> int:
        """Parameters in one layer as exported."""
        return self.exported().num_params(shape)

    def stored_bytes(self, shape: ModelShape) -> int:
        """Bytes of what is exported of one layer."""
        return self.exported().unfolded_bytes(shape)

    def shared_bytes(self, shape: ModelShape) -> int:
        """Bytes of what is exported once a model."""
        return self.exported().unfolded_bytes(shape, once=True)

    def unfolded_bytes(self, shape: ModelShape, once: bool = False) -> int:
        """Bytes of one layer, or of what a model has once, where it stays as it is."""
        places = (None,) if once else self.places(shape)
        return math.ceil(sum(_counts(self, shape, place)[1] for place in places) / 8)

    @abstractmethod
    def flops(self, shape: ModelShape, site: str, length: int) -> MethodFlops:
        """What it adds at one site for one sequence of `length` tokens."""

    def fixed_flops(self, shape: ModelShape, site: str) -> int:
        """What it computes at one site for a batch of any size, forward; it is not counted as a cost of sequences."""
        return 0

    def attention_columns(self) -> int:
        """Key / value columns that it adds to the layer's attention."""
        return 0

    # --- what the weights do -----------------------------------------------------------------------------------------

    def apply(
        self, bank: Bank, output: torch.Tensor, site_input: torch.Tensor, block_input: torch.Tensor | None
    ) -> torch.Tensor:
        """The place's `output` [K*B, L, out] as changed by the K methods whose weights `bank` holds.

        `site_input` [K*B, L, in] is what the place's module was given; `block_input` [K*B, L, d] what its block was,
        for methods that read it. At an input place (`down_in`, `layer_in`) `output` is that input. Sizes and scales are
        the bank's; of `self` only the bank options may be read.
        """
        return output

    def prefix(self, bank: Bank, sequences: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values that it adds to the layer's attention: [K, l, G, h] each, or [sequences, l, G, h]."""
        raise NotImplementedError(f"method '{self.name}' adds nothing to attention")

    def bank_options(self) -> tuple[tuple[str, Any], ...]:
        """Options that all members of one bank must share, as (name, value)."""
        return ()

    @classmethod
    def wired(cls, banks: Sequence[Bank]) -> None:
        """Called when all banks of the class in a model are at their places (`Bank.place`), which have weights.

        Banks may be wired again when they have been trained.
        """

    def output_scale(self) -> float:
        """The factor on what the method adds."""
        return 1.0


@lru_cache(maxsize=65_536)
def _counts(method: Method, shape: ModelShape, place: str | None) -> tuple[int, float, int]:
    """(Trained entries, stored bits, entries in memory) at a place, or once a model."""
    if not method.size_value:
        return 0, 0, 0
    declared = (method.shared(shape) if place is None else method.weights(shape, place)).values()
    trained = sum(w.entries for w in declared if w.kind == "trained")
    return trained, sum(w.stored_bits for w in declared), sum(math.prod(w.shape) for w in declared)
