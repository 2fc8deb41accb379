"""Controls: the uniform configurations that people use, trained before anything is searched.

So a front is never worse than the best of them, and what a search gains over them can be said.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from statistics import fmean
from typing import TYPE_CHECKING, Any

from pydantic import Field, field_validator, model_validator

from autopeft.anatomy import ModelShape
from autopeft.candidate import Candidate, Evaluation, Job
from autopeft.config import Strict, read_yaml
from autopeft.dimensions import Ordinal
from autopeft.errors import AutopeftError, suggest
from autopeft.hybrid import Hybrid
from autopeft.resources import Kind, shipped
from autopeft.searching.sources import UNLIMITED, Allowance
from autopeft.space import SearchSpace
from autopeft.space_spec import Block, read_spec

if TYPE_CHECKING:
    from autopeft.engine.settings import TrainingSettings

_KIND: Kind = "search_spaces/controls"
#: What `controls: default` stands for.
DEFAULT = ("head_only", "bitfit", "lora", "pfeiffer", "houlsby", "parallel", "mam")
#: Factors on the usual rate of what is trained, as small hybrids want higher ones and a control shall not lose by its
#: rate; on a rate that the space fixes; and parts of a list of rates.
_FACTORS, _AROUND, _PARTS = (0.5, 1.5, 4.5), (1 / math.sqrt(10), 1.0, math.sqrt(10)), (1 / 3, 2 / 3, 1.0)
_RATE = "learning_rate"
#: The learning rate of a head that is trained alone: a linear map on frozen features moves slowly at adapters' rates.
HEAD_RATE = 3e-2


@cache
def synonyms() -> dict[str, str]:
    """Names by what is a control's name too: its file's name, where the file gives another one."""
    return {stem: str(read_yaml(path).get("name", stem)) for stem, path in shipped(_KIND).items()}


def named(words: str) -> str:
    """A control in words, as older studies have it (`head`), by the name that it has everywhere (`head_only`)."""
    return synonyms().get(words, words)


def _file(name: str) -> Mapping[str, Any]:
    return read_yaml(shipped(_KIND)[_stem(name)])


def _stem(name: str) -> str:
    return next(stem for stem, shown in synonyms().items() if name in (stem, shown))


class ControlSettings(Strict):
    """Which controls a search begins with, and at most which share of its trials they may take."""

    names: tuple[str, ...] = Field(DEFAULT, max_length=100, description="of controls; none: off")
    share: float = Field(1 / 3, gt=0, le=1, description="of the trials, and of a time limit, at most")

    @model_validator(mode="before")
    @classmethod
    def _short(cls, value: Any) -> Any:
        """A list alone is the names; `default`, `all` and `none` are such lists."""
        if value is None or value is False or isinstance(value, (str, list, tuple)):
            return {"names": value}
        return value

    @field_validator("names", mode="before")
    @classmethod
    def _known(cls, value: Any) -> Any:
        known = synonyms()
        words = {"none": (), "default": DEFAULT, "all": tuple(known.values())}
        if value is None or value is False:
            return ()
        if isinstance(value, str) and value in words:
            return words[value]
        names = [value] if isinstance(value, str) else value
        for name in names if isinstance(names, (list, tuple)) else ():
            if name not in {*known, *known.values()}:
                hint = suggest(str(name), [*known.values(), "default", "all", "none"])
                raise ValueError(f"unknown control '{name}'; {hint}")
        return tuple(dict.fromkeys(known.get(n, n) for n in names)) if isinstance(names, (list, tuple)) else names

    def identity(self) -> dict[str, Any] | None:
        """What a search depends on; None without controls. Names are the files', as in older studies."""
        return {**self.model_dump(mode="json"), "names": list(map(_stem, self.names))} if self.names else None

    @property
    def baselines(self) -> dict[str, str]:
        """Names of baselines, by the files of controls that are one: they train the backbone, and are no hybrids."""
        found = {_stem(name): _file(name).get("baseline") for name in self.names}
        return {name: str(baseline) for name, baseline in found.items() if baseline}


@dataclass(frozen=True)
class Control:
    """One uniform configuration: `lora 2, top half`, and its hybrid."""

    name: str
    hybrid: Hybrid


def controls_of(names: Sequence[str], shape: ModelShape) -> list[Control]:
    """The configurations of controls on a model, each hybrid once; what the model has no place for is left out.

    Each stands in all layers, the top half, the top third and the top one.
    """
    found: dict[Hybrid, Control] = {}
    for name in names:
        for words, methods in _sizes(name, shape):
            for where, count in _depths(shape.layers) if methods else [("", shape.layers)]:
                layers = range(shape.layers - count, shape.layers)
                hybrid = Hybrid.from_layers(
                    shape.layers, {i: [block.make(size) for block, size in methods] for i in layers}
                )
                try:
                    hybrid.check(shape)
                except AutopeftError:
                    continue
                found.setdefault(hybrid, Control(f"{named(name)}{words}{where}", hybrid))
    return list(found.values())


def _sizes(name: str, shape: ModelShape) -> Iterator[tuple[str, list[tuple[Block, int]]]]:
    """The sizes in words, and the blocks at them: the first sizes of all blocks together, then the second ones."""
    path = shipped(_KIND)[_stem(name)]
    data = _file(name)
    if "baseline" in data:
        return
    if not data["blocks"]:
        yield "", []
        return
    _, blocks, _ = read_spec(path)
    for sizes in zip(*(block.scaled(shape) for block in blocks), strict=False):
        # One size alone needs no number.
        words = "" if all(len(block.sizes) == 1 for block in blocks) else " " + "+".join(map(str, sizes))
        yield words, list(zip(blocks, sizes, strict=True))


def _depths(layers: int) -> list[tuple[str, int]]:
    return [
        ("", layers),
        (", top half", max(1, layers // 2)),
        (", top third", max(1, layers // 3)),
        (", top layer", 1),
    ]


def usual_rate(hybrid: Hybrid, relative: bool = False) -> float:
    """A learning rate to begin with: the geometric mean of those of its methods, a head's own where it has none.

    `relative`: where each method learns at its factor times that (`Method.relative_rate`).
    """
    methods = {m.name: m for m in hybrid.methods()}.values()
    rates = [m.usual_rate / (m.relative_rate() if relative else 1.0) for m in methods]
    return math.exp(fmean(map(math.log, rates))) if rates else HEAD_RATE


def trainings_of(space: SearchSpace, rate: float, hybrid: Hybrid, relative: bool = False) -> list[dict[str, float]]:
    """What a control is trained with: three learning rates around the usual one of its methods, the head alone one.

    They may lie outside of the space's range: a control shall be as good as it can be. Where the space has a list of
    rates they are of it, and where it fixes the rate, or says nothing of it (then it is `rate`), around that.
    `relative` is as for `usual_rate`.
    """
    low = {d.name: 0 if isinstance(d, Ordinal) else d.low for d in space.dimensions}
    searched = {d.name for d in space.dimensions}
    fixed = {name: value for name, value in space.decode(low).training.items() if name not in searched}
    dimension = next((d for d in space.dimensions if d.name == _RATE), None)
    if dimension is None:
        rates = [fixed.get(_RATE, rate) * factor for factor in _AROUND]
    elif isinstance(dimension, Ordinal):
        rates = [float(dimension.values[round(part * (len(dimension.values) - 1))]) for part in _PARTS]
    else:
        rates = [usual_rate(hybrid, relative) * factor for factor in _FACTORS]
    if hybrid.is_empty:
        # It begins at a linear probe, and ends near it at any of them.
        rates = rates[1:2] or rates
    return [{**fixed, _RATE: rate} for rate in dict.fromkeys(rates)]


class Controls:
    """A source of a search: each control with all its trainings (learning rates), the cheapest first.

    `cost` gives what a hybrid costs (the search's first cost), `fits` says whether it is within the budget. At most
    so many trainings as are `allowed`: of more, those are taken that span the costs evenly on a logarithmic scale, and
    what costs nothing. Where seconds are limited too nobody knows how many there will be: the cheapest and
    the dearest come first then, and each next one between others.
    """

    def __init__(
        self,
        controls: Sequence[Control],
        trainings: Callable[[Hybrid], Sequence[Mapping[str, float]]],
        cost: Callable[[Hybrid], float],
        fits: Callable[[Hybrid], bool],
        allowed: Allowance = UNLIMITED,
    ) -> None:
        within = sorted((c for c in controls if fits(c.hybrid)), key=lambda c: cost(c.hybrid))
        groups = [(c.name, [Candidate(c.hybrid, training) for training in trainings(c.hybrid)]) for c in within]
        costs = [float(cost(c.hybrid)) for c in within]
        picks = (_spanning(costs, count) for count in range(len(within), -1, -1))
        chosen = next(pick for pick in picks if sum(len(groups[i][1]) for i in pick) <= allowed.trainings)
        if math.isfinite(allowed.seconds):
            chosen = [chosen[i] for i in _spread(len(chosen))]
        self.allowed = allowed
        self._groups = [groups[i] for i in chosen]

    @property
    def groups(self) -> list[tuple[str, list[Candidate]]]:
        """Names, and candidates that differ in their rates."""
        return list(self._groups)

    def only(self, keys: Collection[str]) -> None:
        """Keep to candidates with these keys: a search that is resumed for more trials has the controls that it had."""
        self._groups = [(name, [c for c in group if c.key in keys]) for name, group in self._groups]

    @property
    def names(self) -> dict[str, str]:
        """Names of controls by the keys of their candidates."""
        return {candidate.key: name for name, group in self._groups for candidate in group}

    def next(self, ended: Sequence[Evaluation], running: Sequence[Job], most: int) -> list[Job] | None:
        """The next controls, a pack having all rates of one where it holds so many; see `Source`."""
        names = self.names
        if self.allowed.left([e for e in ended if e.key in names], 0) <= 0:
            return None
        known = {e.job.name for e in ended} | {job.name for job in running}
        pack: list[Job] = []
        for name, group in self._groups:
            left = [job for job in (Job(c, role=f"control {name}") for c in group) if job.name not in known]
            if pack and len(pack) + len(left) > most:
                break
            pack += left[: most - len(pack)]
        return pack or None

    def needs(self, ended: Sequence[Evaluation]) -> Collection[str]:
        """None: a control is whole."""
        return ()


def _spanning(costs: Sequence[float], count: int) -> list[int]:
    """So many of rising `costs`: what costs nothing, then the nearest to even steps of the logarithm of the others."""
    free = [i for i, cost in enumerate(costs) if cost <= 0][:count]
    rest, wanted = list(range(len(free), len(costs))), count - len(free)
    if not wanted:
        return free
    low, high = math.log(costs[rest[0]]), math.log(costs[rest[-1]])
    found: list[int] = []
    for step in range(wanted):
        target = low + (high - low) * (step / (wanted - 1) if wanted > 1 else 0.5)
        found.append(min((i for i in rest if i not in found), key=lambda i: abs(math.log(costs[i]) - target)))
    return [*free, *sorted(found)]


def _spread(count: int) -> list[int]:
    """0 to `count` - 1, of which any beginning is spread: the ends, the middle, the middles of what is between."""
    order, gaps = [0, count - 1], [(0, count - 1)]
    for low, high in gaps:
        middle = (low + high) // 2
        if low < middle:
            order.append(middle)
            gaps += [(low, middle), (middle, high)]
    return list(dict.fromkeys(order)) if count else []


def control_source(
    settings: ControlSettings,
    space: SearchSpace,
    training: TrainingSettings,
    allowed: Allowance,
    costs: Callable[[Hybrid], Mapping[str, float]],
    cost: str,
    fits: Callable[[Hybrid], bool],
) -> Controls:
    """The source of an experiment's controls; `cost` is the name of the first cost."""
    controls = controls_of(settings.names, space.shape)
    trainings = partial(trainings_of, space, training.learning_rate, relative=training.method_rates == "usual")
    return Controls(controls, trainings, lambda hybrid: costs(hybrid)[cost], fits, allowed)
