"""Controls: the uniform configurations that people use, trained before anything is searched.

So a front is never worse than the best of them, and what a search gains over them can be said.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import TYPE_CHECKING, Any

from pydantic import Field, field_validator, model_validator

from autopeft.anatomy import ModelShape
from autopeft.candidate import Candidate, Evaluation, Job
from autopeft.config import Strict, read_yaml
from autopeft.errors import AutopeftError, suggest
from autopeft.hybrid import Hybrid
from autopeft.resources import Kind, shipped
from autopeft.searching.objective import Objective
from autopeft.searching.rates import Rates, Rungs, Tried, rates_of
from autopeft.searching.sources import UNLIMITED, Allowance
from autopeft.space import SearchSpace
from autopeft.space_spec import Block, read_spec

if TYPE_CHECKING:
    from autopeft.engine.settings import TrainingSettings

_KIND: Kind = "search_spaces/controls"
#: What `controls: default` stands for.
DEFAULT = ("head_only", "bitfit", "lora", "pfeiffer", "houlsby", "parallel", "mam")
#: What the role of a control's training begins with.
_ROLE = "control "


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


class Controls:
    """A source of a search: each control with all its trainings (learning rates), the cheapest first.

    `cost` gives what a hybrid costs (the search's first cost), `fits` says whether it is within the budget. At most
    so many trainings as are `allowed`: of more, those are taken that span the costs evenly on a logarithmic scale, and
    what costs nothing. Where seconds are limited too nobody knows how many there will be: the cheapest and
    the dearest come first then, and each next one between others.

    With a `score` a control whose best rate is the highest or the lowest of its own is trained at further ones while
    the score still rises, and the next control begins there; these come on top, a third of what is allowed at most.
    """

    def __init__(
        self,
        controls: Sequence[Control],
        trainings: Callable[[Hybrid], Rates],
        cost: Callable[[Hybrid], float],
        fits: Callable[[Hybrid], bool],
        allowed: Allowance = UNLIMITED,
        score: Objective | None = None,
    ) -> None:
        within = sorted((c for c in controls if fits(c.hybrid)), key=lambda c: cost(c.hybrid))
        rungs = [Rungs.of(c.hybrid, trainings(c.hybrid), f"{_ROLE}{c.name}") for c in within]
        costs = [float(cost(c.hybrid)) for c in within]
        picks = (_spanning(costs, count) for count in range(len(within), -1, -1))
        chosen = next(pick for pick in picks if sum(rungs[i].count for i in pick) <= allowed.trainings)
        self.allowed, self._score = allowed, score
        self._every, self._rungs = rungs, self._in_turn([rungs[i] for i in chosen])

    def _in_turn(self, rungs: Sequence[Rungs]) -> list[Rungs]:
        return [rungs[i] for i in _spread(len(rungs))] if math.isfinite(self.allowed.seconds) else list(rungs)

    @property
    def groups(self) -> list[tuple[str, list[Candidate]]]:
        """Names, and the candidates that each begins with, which differ in their rates."""
        return [(_name(rungs), [job.candidate for job in rungs.usual]) for rungs in self._rungs]

    def only(self, keys: Collection[str]) -> None:
        """Keep to candidates with these keys: a search that is resumed for more trials has the controls that it had."""
        # Not of those chosen now: of another number of trials these may be others.
        self._rungs = self._in_turn([kept for rungs in self._every if (kept := rungs.only(keys)).jobs])

    @property
    def names(self) -> dict[str, str]:
        """Names of controls by the keys of their candidates, at further rates too."""
        return {job.candidate.key: _name(rungs) for rungs in self._rungs for job in rungs.jobs}

    def next(self, ended: Sequence[Evaluation], running: Sequence[Job], most: int) -> list[Job] | None:
        """The next controls, a pack having all rates of one where it holds so many; see `Source`."""
        names = self.names
        seconds = Allowance(seconds=self.allowed.seconds)
        if self.allowed.trainings <= 0 or seconds.left([e for e in ended if e.key in names], 0) <= 0:
            return None
        tried, pack, shift, waits = Tried.of(ended, running, self._score), list[Job](), 0, False
        room = self._room(tried)
        for rungs in self._rungs:
            left = rungs.left(tried, shift, room > 0)
            waits |= left is None
            if left == []:
                shift = rungs.shift(tried)
            if left and pack and len(pack) + len(left) > most:
                break
            room -= bool(left) and len(rungs.begun(tried)) >= rungs.count
            pack += (left or [])[: most - len(pack)]
        return pack or ([] if waits else None)

    def _room(self, tried: Tried) -> float:
        """How many further rates there may be yet."""
        beyond, most = (
            sum(max(0, len(rungs.begun(tried)) - rungs.count) for rungs in self._rungs),
            self.allowed.trainings,
        )
        # Infinity divided so is no number.
        return 0 if self._score is None else max(1, most // 3 if math.isfinite(most) else most) - beyond

    def needs(self, ended: Sequence[Evaluation]) -> Collection[str]:
        """None: a control is whole."""
        return ()


def _name(rungs: Rungs) -> str:
    return rungs.role.removeprefix(_ROLE)


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
    score: Objective | None = None,
) -> Controls:
    """The source of an experiment's controls: `cost` is the name of the first cost, rates are chosen by the score."""
    controls = controls_of(settings.names, space.shape)
    trainings = partial(rates_of, space, training.learning_rate, relative=training.method_rates == "usual")
    return Controls(controls, trainings, lambda hybrid: costs(hybrid)[cost], fits, allowed, score)
