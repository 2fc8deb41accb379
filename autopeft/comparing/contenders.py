"""What is compared: methods in their usual settings, presets, and baselines."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

from autopeft.anatomy import ModelShape
from autopeft.baselines import BASELINES
from autopeft.dimensions import Continuous
from autopeft.errors import AutopeftError, suggest
from autopeft.hybrid import Hybrid, short_hash
from autopeft.methods import METHODS, Method
from autopeft.plugins import codes_of
from autopeft.resources import shipped
from autopeft.searching.controls import named
from autopeft.searching.rates import HEAD_RATE
from autopeft.space import SearchSpace
from autopeft.space_spec import is_preset
from autopeft.wording import spaced

#: The learning rate that a grid is centred on where a method does not say.
_RATE = 1e-3
HEAD_ONLY = "head_only"


@dataclass(frozen=True)
class Contender:
    """One row of a comparison: a hybrid on the frozen backbone, or (without one) the baseline of that name.

    `rate` is what its grid of learning rates is centred on. `error`: why this model cannot have it, in one line.
    """

    name: str
    family: str
    rate: float
    hybrid: Hybrid | None = None
    error: str | None = None

    @property
    def key(self) -> str:
        """The hybrid's hash or the baseline's name, the rate, and plug-ins' code: what makes its trainings."""
        what = self.name if self.hybrid is None else short_hash(self.hybrid.to_json())
        if self.hybrid is None:
            used: list[type] = [BASELINES.get(self.name)] if self.name in BASELINES.names() else []
        else:
            used = [type(method) for method in self.hybrid.methods()]
        return " ".join([what, f"{self.rate:g}", *codes_of(used).values()])

    @property
    def words(self) -> str:
        """What it is, in short."""
        return spaced(self.name) if self.hybrid is None else self.hybrid.describe()


def contenders(shape: ModelShape, wanted: str | Sequence[str] = "all", method_rates: str = "shared") -> list[Contender]:
    """The contenders of these names (a list, or text with commas), or all of them; `AutopeftError` for an unknown one.

    All are the baselines, the head alone, each method and each preset, a hybrid that two of them name being taken once.
    With `method_rates` "usual" the grid of one method, or of a preset of one, lies where its weights still learn around
    the usual rate.
    """
    makers = _makers(shape, method_rates)
    if wanted == "all":
        return _different([make() for make in makers.values()])
    names = [n.strip() for n in wanted.split(",")] if isinstance(wanted, str) else list(wanted)
    # Controls of a search have the same names, and may be called by their files' too.
    names = [name if name in makers else named(name) for name in names]
    for name in names:
        if name not in makers:
            raise AutopeftError(f"methods: unknown method '{name}'; {suggest(name, [*makers, 'all'])}")
    return [makers[name]() for name in dict.fromkeys(names)]


def presets() -> list[str]:
    """The shipped spaces that have one hybrid."""
    return [name for name in shipped("search_spaces") if is_preset(name)]


def _makers(shape: ModelShape, method_rates: str) -> dict[str, Callable[[], Contender]]:
    """How each is made; nothing is made before it is asked for."""
    found: dict[str, Callable[[], Contender]] = {name: partial(_baseline, name) for name in BASELINES.names()}
    found[HEAD_ONLY] = partial(Contender, HEAD_ONLY, "head", HEAD_RATE, Hybrid.uniform(shape.layers))
    for cls in METHODS.all().values():
        found |= {name: partial(_method, name, cls, make, shape, method_rates) for name, make in cls.variants().items()}
    # A method keeps its name where a preset is called the same.
    return found | {name: partial(_preset, name, shape, method_rates) for name in presets() if name not in found}


def _baseline(name: str) -> Contender:
    cls = BASELINES.get(name)
    return Contender(name, cls.family, cls.usual_rate)


def _method(
    name: str, cls: type[Method], make: Callable[[], Method], shape: ModelShape, method_rates: str
) -> Contender:
    factor = cls.relative_rate() if method_rates == "usual" else 1.0
    contender = Contender(name, cls.family, cls.usual_rate / factor)
    return _hybrid(contender, shape, lambda: Hybrid.uniform(shape.layers, make()))


def _preset(name: str, shape: ModelShape, method_rates: str) -> Contender:
    space = SearchSpace.load(name, shape)
    rate = next((d for d in space.dimensions if d.name == "learning_rate" and isinstance(d, Continuous)), None)
    middle = math.sqrt(rate.low * rate.high) if rate else _RATE
    kinds, family = {METHODS.get(method) for method in space.methods.values()}, "hybrid"
    if len(kinds) == 1:
        (cls,) = kinds
        family = cls.family if len(space.methods) == 1 else family
        middle /= cls.relative_rate() if method_rates == "usual" else 1.0
    return _hybrid(Contender(name, family, middle), shape, lambda: space.hybrid({}))


def _hybrid(contender: Contender, shape: ModelShape, make: Callable[[], Hybrid]) -> Contender:
    """With its hybrid, or with the reason why a model of that shape cannot have it."""
    try:
        hybrid = make()
        hybrid.check(shape)
        hybrid.check_room(shape)
    except AutopeftError as error:
        return replace(contender, error=str(error))
    return replace(contender, hybrid=hybrid)


def _different(found: Sequence[Contender]) -> list[Contender]:
    """Each hybrid once, under its first name."""
    names: dict[Hybrid, str] = {}
    for one in found:
        if one.hybrid is not None:
            names.setdefault(one.hybrid, one.name)
    return [one for one in found if one.hybrid is None or names[one.hybrid] == one.name]
