"""The training hyper-parameters of a search space as they are written, and the dimensions that they are."""

from __future__ import annotations

import math
from typing import Annotated, Any, Self

from pydantic import AfterValidator, Field, model_validator

from autopeft.config import Strict
from autopeft.dimensions import Continuous, Dimension, Ordinal

#: Of the values to choose from in one place.
MOST_CHOICES = 1_000


class Values(Strict):
    """What a training hyper-parameter may be: a fixed number, `{choices: [...]}` or `{low, high, log}`.

    A range on a logarithmic scale is widened by a search whose best candidates sit at its end, if not `widen: false`.
    """

    low: float | None = None
    high: float | None = None
    log: bool = False
    widen: bool | None = None
    choices: list[float] | None = Field(None, max_length=MOST_CHOICES)

    @model_validator(mode="before")
    @classmethod
    def _one_number(cls, value: Any) -> Any:
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            return {"choices": [value]}
        return value

    @model_validator(mode="after")
    def _range_or_choices(self) -> Self:
        if self.choices is not None:
            if self.low is not None or self.high is not None or self.log or self.widen:
                raise ValueError("give either choices or low and high")
            if not self.choices or not all(c > 0 and math.isfinite(c) for c in self.choices):
                raise ValueError("choices must be numbers above 0")
        elif self.low is None or self.high is None:
            raise ValueError("expected a number, {choices: [...]} or {low: ..., high: ..., log: true}")
        elif not 0 < self.low < self.high < math.inf:
            raise ValueError("needs 0 < low < high")
        elif self.widen and not self.log:
            raise ValueError("only a range on a logarithmic scale widens; add log: true")
        return self

    def dimension(self, name: str) -> Dimension:
        """What is searched of the hyper-parameter of that name."""
        if self.choices is not None:
            return Ordinal(name, tuple(sorted(set(self.choices))), "training")
        assert self.low is not None, "checked by this value"
        assert self.high is not None, "checked by this value"
        return Continuous(name, self.low, self.high, self.log, bounds=bounds_of(name, self))

    @property
    def is_fixed(self) -> bool:
        """Whether there is one value only."""
        return self.choices is not None and len(set(self.choices)) == 1

    def to_json(self) -> Any:
        """As short as it can be written."""
        if self.choices is not None:
            return self.choices[0] if len(self.choices) == 1 else {"choices": self.choices}
        # What came later is left out where it is off: so are searches that were begun before it.
        widens = {"widen": True} if self.widens else {}
        return {"low": self.low, "high": self.high, "log": self.log, **widens}

    @property
    def widens(self) -> bool:
        """Whether a search may widen the range."""
        return self.choices is None and self.log and self.widen is not False


#: fp32 holds no larger number. A rate below it that makes no sense is a failed candidate, and costs nothing before.
_LARGEST = 1e38


#: No range is widened beyond these.
_WIDEST = {
    "learning_rate": (1e-6, 0.1),
    "weight_decay": (1e-6, 1.0),
    "warmup": (1e-3, 0.5),
    "max_grad_norm": (1e-2, 1e2),
}
#: A range is widened by this factor at a time, and so often on each side.
WIDER, TIMES = 3.0, 2


def bounds_of(name: str, values: Values) -> tuple[float, float] | None:
    """How far the range of a training hyper-parameter may be widened; None where it may not."""
    if not values.widens or values.low is None or values.high is None:
        return None
    least, most = _WIDEST[name]
    low, high = values.low / WIDER**TIMES, values.high * WIDER**TIMES
    return max(low, min(values.low, least)), min(high, max(values.high, most))


def _below(most: float) -> AfterValidator:
    def check(values: Values) -> Values:
        largest = max(values.choices or (values.high or 0.0,))
        if largest >= most:
            raise ValueError(f"must be below {most:g}, not {largest:g}")
        return values

    return AfterValidator(check)


class Training(Strict):
    """The hyper-parameters of training that may be searched; one that is left out is the trainer's own."""

    learning_rate: Annotated[Values, _below(_LARGEST)] | None = None
    weight_decay: Annotated[Values, _below(_LARGEST)] | None = None
    warmup: Annotated[Values, _below(1)] | None = None
    max_grad_norm: Annotated[Values, _below(_LARGEST)] | None = None

    @property
    def dimensions(self) -> tuple[Dimension, ...]:
        """Of those that are not fixed."""
        return tuple(values.dimension(name) for name, values in self if values is not None and not values.is_fixed)
