"""What every method is: a frozen value that can count itself and draw its initial weights."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self, cast

from autopeft.anatomy import ModelShape
from autopeft.errors import AutopeftError, shown, suggest

if TYPE_CHECKING:
    import torch

    from autopeft.methods._bank import Bank


#: Of a method's size in one layer: more than any width of a model, and little enough to count and compare with.
MOST_SIZE = 65_536
#: Of a factor on what a method adds, and 1 / the least: what lies beyond is zero or infinite in half precision.
_MOST_SCALE = 1e6


@dataclass(frozen=True)
class MethodFlops:
    """Matrix-multiplication FLOPs (2 a multiply-add) that one method adds at one site for one sequence.

    `backward` is what its own weights cost; `backward_input` comes on top when the gradient must flow on below it.
    """

    forward: int
    backward: int
    backward_input: int


class Method(ABC):
    """One PEFT method in one layer: sizes, sites and options. Every concrete method is a frozen dataclass.

    Invariants (held for every plug-in by the conformance suite): `num_params` equals the number of weights that its
    bank trains; size 0 is the absent method; the value survives a JSON round trip; `init` is deterministic for a
    generator. A method that changes nothing before training says so with `zero_init`.
    """

    name: ClassVar[str]
    #: One line for `autopeft list methods`.
    description: ClassVar[str]
    #: The field that is the method's size; 0 means absent.
    size: ClassVar[str]
    #: Where it may stand, in any combination; the field `sites` holds the choice.
    allowed_sites: ClassVar[tuple[str, ...]]
    #: Methods at one site act in the order of their stages, whatever order they were written in.
    stage: ClassVar[int]
    #: True when the method leaves the network's output unchanged before training.
    zero_init: ClassVar[bool] = True
    #: True when a trained method folds into the backbone's weights, so that inference pays nothing.
    mergeable: ClassVar[bool] = False
    #: What it computes from: the input of its site's linear map, the input of that map's block, or the map's output.
    reads: ClassVar[Literal["site", "block", "output"]] = "site"

    sites: tuple[str, ...]

    def __post_init__(self) -> None:
        """Check the size and the sites; sites are put into the order of computation."""
        value = getattr(self, self.size)
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            raise AutopeftError(
                f"method '{self.name}': {self.size} must be a whole number from 0 up, not {shown(value)}"
            )
        if value > MOST_SIZE:
            raise AutopeftError(f"method '{self.name}': {self.size} must be at most {MOST_SIZE:,}, not {shown(value)}")
        sites = (self.sites,) if isinstance(self.sites, str) else tuple(self.sites)
        for site in sites:
            if site not in self.allowed_sites:
                hint = suggest(site, self.allowed_sites)
                raise AutopeftError(f"method '{self.name}': unknown site {shown(site)}; {hint}")
        if not sites:
            raise AutopeftError(f"method '{self.name}': sites must not be empty; leave the method out instead")
        object.__setattr__(self, "sites", tuple(s for s in self.allowed_sites if s in sites))

    def _check_scale(self, scale: Any) -> float:
        """A factor on what the method adds, as a float."""
        number = isinstance(scale, (int, float)) and not isinstance(scale, bool)
        if not number or not 1 / _MOST_SCALE <= scale <= _MOST_SCALE:
            most = f"{_MOST_SCALE:,.0f}"
            raise AutopeftError(f"method '{self.name}': scale must be above 0 (1/{most} to {most}), not {shown(scale)}")
        return float(scale)

    @classmethod
    def option_names(cls) -> list[str]:
        """The names of the hyper-parameters that a user may give."""
        return [f.name for f in dataclasses.fields(cast(Any, cls))]

    @property
    def size_value(self) -> int:
        """The value of the field that `size` names."""
        return int(getattr(self, self.size))

    def at(self, *sites: str) -> Self:
        """The same method at other sites."""
        return cast(Self, dataclasses.replace(cast(Any, self), sites=sites))

    def to_json(self) -> dict[str, Any]:
        """Plain data that `method_from_json` reads back."""
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(cast(Any, self))}
        return {"method": self.name} | {k: list(v) if isinstance(v, tuple) else v for k, v in fields.items()}

    def num_params(self, shape: ModelShape) -> int:
        """Trainable parameters in one layer, over all its sites."""
        return sum(self.site_params(shape, site) for site in self.sites)

    def stored_bytes(self, shape: ModelShape) -> int:
        """Bytes of the trained weights in one layer as stored (fp32 unless a method stores less)."""
        return 4 * self.num_params(shape)

    @abstractmethod
    def site_params(self, shape: ModelShape, site: str) -> int:
        """Trainable parameters at one site of one layer."""

    @abstractmethod
    def flops(self, shape: ModelShape, site: str, length: int) -> MethodFlops:
        """What it adds at one site for one sequence of `length` tokens."""

    def attention_columns(self) -> int:
        """Key / value columns that it adds to the layer's attention."""
        return 0

    @abstractmethod
    def init(self, shape: ModelShape, site: str, generator: torch.Generator) -> dict[str, torch.Tensor]:
        """Initial weights at one site, by name, without a candidate axis, fp32 on the CPU."""

    def apply(
        self, bank: Bank, output: torch.Tensor, site_input: torch.Tensor, block_input: torch.Tensor | None
    ) -> torch.Tensor:
        """The site's `output` [K*B, L, out] as changed by the K methods whose weights `bank` holds.

        `site_input` [K*B, L, in] is what the site's linear map was given; `block_input` [K*B, L, d] what its block
        was, for methods that read it. Sizes and scales are the bank's; of `self` only the bank options may be read.
        """
        return output

    def bank_options(self) -> tuple[tuple[str, Any], ...]:
        """Options that all members of one bank must share, as (name, value)."""
        return ()

    def output_scale(self) -> float:
        """The factor on what the method adds."""
        return 1.0
