"""Any tuner of Hugging Face PEFT that changes a layer's maps or norms, in PEFT's own code.

Candidates of other tuners, sizes and layers train in one pack: their weights lie in banks like those of all methods,
and each candidate's sequences go through its own tuner's layer (`autopeft.peft_tuners`).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from autopeft.anatomy import MAPS, ModelShape
from autopeft.errors import AutopeftError
from autopeft.methods._base import Kin, Method, MethodFlops
from autopeft.methods._weights import Weight
from autopeft.peft_tuners import SWITCHED, Setting
from autopeft.peft_tuners.profile import ORDER, Holding, Map, Profile, profile
from autopeft.peft_tuners.verdicts import Verdict, checked, refuse_kind

if TYPE_CHECKING:
    import torch

    from autopeft.methods._bank import Bank

_NORMS = ("norm1", "norm2")
#: Below it a change of the tiny model's output is rounding.
_ROUNDING = 1e-5


@dataclass(frozen=True)
class PeftBlock(Method):
    """A tuner of PEFT by its name (`loha`), of size `amount`, with fields of its own configuration as `options`.

    `size_field` is the field that `amount` sets: known for the tuners of PEFT 0.21, else `r`. A tuner without sizes is
    on (1) or off (0). Dropout is off, as for all methods. A tuner is tried once a process, and refused with the reason
    where it cannot be used.
    """

    name: ClassVar[str] = "peft"
    description: ClassVar[str] = "any tuner of Hugging Face PEFT that changes maps or norms of a layer (tuner: loha)"
    paper: ClassVar[str] = "as documented by PEFT"
    family: ClassVar[Kin] = "reparameterised"
    formula: ClassVar[str] = "counted on the tuner itself"
    usual: ClassVar[Mapping[str, Any]] = {"amount": 8, "tuner": "loha", "sites": ("q", "v")}
    size: ClassVar[str] = "amount"
    allowed_sites: ClassVar[tuple[str, ...]] = MAPS
    stage: ClassVar[int] = 5
    # Drawn when it is put on a model, whose weights some tuners start from.
    random_init: ClassVar[bool] = False

    amount: int
    tuner: str = "loha"
    size_field: str | None = None
    sites: tuple[str, ...] = ("q", "v")
    options: Any = ()

    def __post_init__(self) -> None:
        """Check the tuner and its options; then the checks of every method."""
        self._check_size()
        refuse_kind(self.tuner)
        # As `replace` gives them back.
        options = dict(self.options) if isinstance(self.options, tuple) else self.options
        setting = Setting.of(self.tuner, self.amount, self.size_field, options)
        found = checked(setting.tuner, setting.size_field)
        if setting.size_field == SWITCHED and self.amount > 1:
            raise AutopeftError(
                f"method '{self.name}': tuner '{setting.tuner}' is on (1) or off (0), not {self.amount}"
            )
        own: dict[str, Any] = {"tuner": setting.tuner, "size_field": setting.size_field, "options": setting.options}
        # Of this tuner, where the class can only speak of most.
        own["allowed_sites"] = (MAPS if "maps" in found.places else ()) + (_NORMS if "norms" in found.places else ())
        own["zero_init"], own["stage"] = found.change < _ROUNDING, 4 if found.replaces else 5
        for name, value in own.items():
            object.__setattr__(self, name, value)
        super().__post_init__()

    @property
    def setting(self) -> Setting:
        """The tuner, its size and its options."""
        return Setting(self.tuner, self.amount, self.size_field or "", self.options)

    @property
    def verdict(self) -> Verdict:
        """What a trial of the tuner has shown."""
        return checked(self.tuner, self.size_field)

    @property
    def label(self) -> str:
        """`peft:loha`."""
        return f"{self.name}:{self.tuner}"

    @property
    def claim(self) -> str:
        """Its label; of all tuners that compute a map's output anew one can be at a site."""
        return "peft tuner that replaces a map" if self.verdict.replaces else self.label

    @property
    def bank_name(self) -> str:
        """Banks hold one setting."""
        return "_".join([self.name, self.tuner, str(self.amount), *(["options"] if self.options else [])])

    def bank_options(self) -> tuple[tuple[str, Any], ...]:
        """All that makes the weights' shapes: banks are not padded."""
        options = json.dumps([self.size_field, dict(self.options)], sort_keys=True)
        return (("tuner", self.tuner), ("amount", self.amount), ("options", options))

    def to_json(self) -> dict[str, Any]:
        """Options as a mapping."""
        return super().to_json() | {"options": dict(self.options)}

    def places(self, shape: ModelShape) -> tuple[str, ...]:
        """In the order of the model."""
        return tuple(sorted(super().places(shape), key=ORDER.index))

    def weights(self, shape: ModelShape, place: str) -> Mapping[str, Weight]:
        """The place's own entries end to end; `fixed` ones are stored and not trained."""
        return _declared(self._profile(shape, (place,)).places[place]) or {"none": Weight((1,), kind="state")}

    def shared(self, shape: ModelShape) -> Mapping[str, Weight]:
        """What the tuner holds once for all maps: projections, or weights that layers share."""
        return _declared(self._profile(shape, self.places(shape)).model)

    def stored_bytes(self, shape: ModelShape) -> int:
        """As PEFT stores it, which may be more than once."""
        found = self._profile(shape, self.places(shape)).places.values() if self.amount else ()
        return sum(h.stored for h in found)

    def shared_bytes(self, shape: ModelShape) -> int:
        """As PEFT stores it."""
        return self._profile(shape, self.places(shape)).model.stored if self.amount else 0

    def flops(self, shape: ModelShape, site: str, length: int) -> MethodFlops:
        """As PyTorch counts the tuner's matrix products."""
        from autopeft.peft_tuners.flops import flops

        return MethodFlops(*flops(self.setting, _map(shape, site), self.verdict.on_meta, length))

    def _profile(self, shape: ModelShape, places: Sequence[str]) -> Profile:
        try:
            return profile(self.setting, tuple(_map(shape, place) for place in places), self.verdict.on_meta)
        except AutopeftError:
            raise
        except Exception as error:  # a size or an option that the tuner refuses for these widths
            reason = " ".join(str(error).split())[:200]
            raise AutopeftError(
                f"{self.label}: {self.size_field} {self.amount} at {', '.join(places)} does not fit the model: {reason}"
            ) from None

    @classmethod
    def stored(cls, banks: Iterable[tuple[str, Bank]], candidate: int = 0) -> dict[str, torch.Tensor]:
        """A candidate's weights as PEFT stores them; maps are named by `layers.<i>` and their names in the layer."""
        from autopeft.methods._peft_wiring import stored

        return stored([bank for _, bank in banks if bank.layer is not None and isinstance(bank.method, cls)], candidate)

    @classmethod
    def wired(cls, banks: Sequence[Bank]) -> None:
        """Build the candidates' tuners over the maps that the banks are at, and draw what was not drawn yet."""
        from autopeft.methods._peft_wiring import wire

        wire(banks)

    def apply(
        self, bank: Bank, output: torch.Tensor, site_input: torch.Tensor, block_input: torch.Tensor | None
    ) -> torch.Tensor:
        """Each candidate's sequences through its own tuner's layer."""
        import torch

        from autopeft.methods._peft_wiring import flats, layers_of

        layers = layers_of(bank)
        each = output.shape[0] // len(layers)
        parts = [
            part if tuned is None else tuned(part, x, *flats(bank, k, tuned))
            for k, (tuned, part, x) in enumerate(zip(layers, output.split(each), site_input.split(each), strict=True))
        ]
        return parts[0] if len(parts) == 1 else torch.cat(parts)


def _declared(held: Holding) -> dict[str, Weight]:
    found = {"trained": Weight((held.trained,))} if held.trained else {}
    return found | ({"fixed": Weight((held.kept,), kind="frozen")} if held.kept else {})


def _map(shape: ModelShape, place: str) -> Map:
    at = shape.row.site(place)
    # A slice of a fused map is a map of its own.
    name = at.module if at.parts == 1 else f"{at.module}.{place}"
    return Map(place, name, *shape.width(place), place in shape.biased)
