"""The value that a method is: a size, places and options, checked, and JSON both ways."""

from __future__ import annotations

import dataclasses
from abc import ABC
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Self, cast

from autopeft.anatomy import INPUT, MAPS, SYNONYMS
from autopeft.errors import AutopeftError, shown, suggest
from autopeft.methods._checks import MOST_SIZE, Checks

#: Of a field's metadata: it came later, so that JSON leaves it out where it has its default, and old keys stay.
LATER = "later"
#: The usual learning rate of most methods, low rank among them: what others' rates are multiples of.
REFERENCE_RATE = 2e-3
#: In the place of sites: every linear map that the method may stand at.
ALL_LINEAR = "all-linear"


class MethodValue(Checks, ABC):
    """Hyper-parameters of one method in one layer. Every concrete method is a frozen dataclass."""

    #: The learning rate that a grid is centred on.
    usual_rate: ClassVar[float] = REFERENCE_RATE
    #: What its weights learn at with `method_rates: usual`, in multiples of the candidate's rate; None: what the usual
    #: rate is of the reference.
    rate_factor: ClassVar[float | None] = None
    #: Its usual settings, by field: what `autopeft compare` trains.
    usual: ClassVar[Mapping[str, Any]]
    #: The field that is the method's size; 0 means absent.
    size: ClassVar[str]
    #: The largest size (1 for a method that is on or off), and what sizes are multiples of.
    largest: ClassVar[int] = MOST_SIZE
    step: ClassVar[int] = 1
    #: Where it may stand, in any combination; the field `sites` holds the choice.
    allowed_sites: ClassVar[tuple[str, ...]]

    sites: tuple[str, ...]

    def __post_init__(self) -> None:
        """Check the size and the sites; sites are put into the order of computation."""
        self._check_size()
        if not isinstance(self.sites, (str, list, tuple)):
            raise self._wrong("sites must be a list of names", self.sites)
        if self.sites == ALL_LINEAR or tuple(self.sites) == (ALL_LINEAR,):
            object.__setattr__(self, "sites", tuple(s for s in self.allowed_sites if s in MAPS))
        sites = (self.sites,) if isinstance(self.sites, str) else tuple(self.sites)
        sites = tuple(SYNONYMS.get(site, site) if isinstance(site, str) else site for site in sites)
        for site in sites:
            if site not in self.allowed_sites:
                hint = suggest(site, self.allowed_sites)
                raise AutopeftError(f"method '{self.name}': unknown site {shown(site)}; {hint}")
        if not sites:
            raise AutopeftError(f"method '{self.name}': sites must not be empty; leave the method out instead")
        object.__setattr__(self, "sites", tuple(s for s in self.allowed_sites if s in sites))

    def _check_size(self) -> None:
        value = getattr(self, self.size)
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            raise self._wrong(f"{self.size} must be a whole number from 0 up", value)
        if value > self.largest:
            raise self._wrong(f"{self.size} must be at most {self.largest:,}", value)
        if value % self.step:
            raise self._wrong(f"{self.size} must be a multiple of {self.step}", value)

    @classmethod
    def option_names(cls) -> list[str]:
        """The names of the hyper-parameters that a user may give."""
        return [f.name for f in dataclasses.fields(cast(Any, cls))]

    @classmethod
    def relative_rate(cls) -> float:
        """Its `rate_factor`, or the one that follows from its usual rate."""
        return cls.usual_rate / REFERENCE_RATE if cls.rate_factor is None else cls.rate_factor

    @classmethod
    def as_usual(cls) -> Self:
        """The method in its usual settings."""
        return cls(**cls.usual)

    @classmethod
    def variants(cls) -> Mapping[str, Callable[[], Self]]:
        """How `autopeft compare` makes it, by name; several (`peft:loha`) of a method that stands for many."""
        return {cls.name: cls.as_usual}

    @property
    def label(self) -> str:
        """Its kind, for people."""
        return self.name

    @property
    def brief(self) -> str:
        """Its kind, size and sites in a few words: `lora 8 q,v`, `lora 4 all-linear`, `bitfit`.

        The size of what is on is left out, and so are the sites of what stands at all that it may stand at.
        """
        every = tuple(s for s in self.allowed_sites if s in MAPS)
        whole = len(self.allowed_sites) == 1 or (self.largest == 1 and self.sites == self.allowed_sites)
        sites = ALL_LINEAR if self.sites == every and len(every) > 2 else ",".join(self.sites)
        return " ".join(
            [self.label, *([] if self.largest == 1 else [str(self.size_value)]), *([] if whole else [sites])]
        )

    @property
    def claim(self) -> str:
        """What only one method may be at a site of a layer."""
        return self.label

    @property
    def bank_name(self) -> str:
        """The name of its banks, a part of its weights' names: without dots, and one bank of a candidate at a place."""
        return self.name

    @property
    def of_model(self) -> bool:
        """Whether it is one of the whole model: it stands before the lowest layer, and in none."""
        return self.sites == (INPUT,)

    def input_tokens(self) -> int:
        """Vectors that it adds to those of the text's tokens, at place "input"."""
        return 0

    @property
    def size_value(self) -> int:
        """The value of the field that `size` names."""
        return int(getattr(self, self.size))

    def at(self, *sites: str) -> Self:
        """The same method at other sites."""
        return cast(Self, dataclasses.replace(cast(Any, self), sites=sites))

    def to_json(self) -> dict[str, Any]:
        """Plain data that `method_from_json` reads back."""
        fields = {
            f.name: getattr(self, f.name)
            for f in dataclasses.fields(cast(Any, self))
            if not f.metadata.get(LATER) or getattr(self, f.name) != f.default
        }
        return {"method": self.name} | {k: list(v) if isinstance(v, tuple) else v for k, v in fields.items()}
