"""A few steps, timed and thrown away: which precision and attention, how many candidates at once, how long it takes."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch

from autopeft.candidate import Candidate
from autopeft.engine.backbone import Backbone, choose_precision, fast_bf16
from autopeft.engine.data import Batch, TokenizedTask, collate, training_groups
from autopeft.engine.load import memory_here, wait_for
from autopeft.engine.pack import Pack
from autopeft.engine.schedule import CostModel, Lengths, Workload
from autopeft.engine.setup import Name, Setup, attention_name, places_of, precision_of
from autopeft.engine.worker import WorkerSpec, device
from autopeft.hybrid import Hybrid

#: A pack must be so much faster, a candidate, than one of half its size: large packs learn less from each other.
_WORTH, _LARGEST = 1.04, {"cpu": 16, "cuda": 64}
#: Seconds after which nothing more is compared: what is usual on the device stays.
_SECONDS = 4.0
#: Two options are timed once more, but where the first times are so far from what would decide otherwise.
_CLEAR, _ROUNDS = 1.25, 2
#: Of a pack the fastest step counts, of so many, or of as many as take this long: the first one of a process is slow.
_STEPS, _LONG = 3, 0.1
#: The most of a typical candidate's products and places that is of the latter.
_OF_PLACES = 0.5
#: Share of the free memory that a pack may use.
_MEMORY = 0.5


class _Option(NamedTuple):
    """What a candidate's step may be done with."""

    precision: Name
    attention: str
    size: int = 1


def measure(spec: WorkerSpec, task: TokenizedTask, typical: Candidate, share: float = 1) -> Setup:
    """Try what there is on this worker's device; `share` workers divide its memory."""
    before = torch.get_num_threads()
    if spec.threads:
        torch.set_num_threads(spec.threads)
    try:
        return _Trial(spec, task, typical, share).setup()
    finally:
        torch.set_num_threads(before)


class _Trial:
    """Backbones of one model in several precisions, one batch of usual length, one candidate."""

    def __init__(self, spec: WorkerSpec, task: TokenizedTask, typical: Candidate, share: float) -> None:
        self.spec, self.task, self.typical, self.share = spec, task, typical, share
        self.device, self.tried, self.named = device(), dict[_Option, float](), dict[str, _Option]()
        self.backbones: dict[Name, Backbone] = {}
        self._end, self._loading, self._last = time.perf_counter() + _SECONDS, 0.0, 0.0
        # A single thread's own time is the same beside other processes, such as workers that are starting.
        alone = self.device.type == "cpu" and torch.get_num_threads() == 1
        self._clock: Callable[[], float] = time.thread_time if alone else time.perf_counter
        groups = training_groups(task.train, spec.settings.batches, spec.settings.seed, 1)
        groups.sort(key=lambda group: int(task.train.lengths[group].max()))
        self.batch = self._collate(groups[len(groups) // 2])
        self.longest = self._collate(groups[-1])

    def setup(self) -> Setup:
        """What is fastest here, as far as there is time to try it."""
        precision = self._precision()
        # The other one's weights are not needed any more, and packs are as large as memory allows.
        self.backbones = {precision: self._loaded(precision)}
        usual = _usual(precision, self.device)
        other = usual._replace(attention="fused" if usual.attention == "matmul" else "matmul")
        chosen = other if self._beats(other.attention, other, usual.attention, usual) else usual
        backbone = self._loaded(precision)
        backbone.precision = precision_of(precision, chosen.attention)
        chosen = self._sized(chosen, self._most(backbone))
        size, each = chosen.size, self.tried[chosen]
        overhead = min(self._step(backbone, size, Candidate(Hybrid.uniform(backbone.shape.layers))) / size, 0.5 * each)
        place = self._place(backbone, chosen, each - overhead, overhead)
        return Setup(
            device=str(self.device),
            precision=precision,
            attention=chosen.attention,
            pack=size,
            flops_per_second=self._flops(backbone) / (each - overhead - place * places_of(self.typical.hybrid)),
            seconds_per_step=overhead,
            seconds_per_place=place,
            milliseconds={name: round(1e3 * self.tried[option], 3) for name, option in self.named.items()},
        )

    def _place(self, backbone: Backbone, chosen: _Option, typical: float, overhead: float) -> float:
        """Seconds of each place at which a method stands, of the `typical` ones beyond the overhead."""
        few = _shallow(self.typical)
        if not 0 < places_of(few.hybrid) < places_of(self.typical.hybrid) or self._is_late(chosen):
            return 0.0
        single = self._step(backbone, chosen.size, few) / chosen.size - overhead
        many = _Part(typical, self._flops(backbone), places_of(self.typical.hybrid))
        return _of_a_place(many, _Part(single, self._flops(backbone, few), places_of(few.hybrid)))

    def _precision(self) -> Name:
        asked = self.spec.settings.precision
        if asked != "auto":
            return asked
        # Where bf16 is emulated it takes seconds to find out how slow it is; and scores depend on the precision, so a
        # moment's noise on a busy machine must not decide: half as fast it would have to be.
        if not fast_bf16(self.device):
            return "fp32"
        slow = self._beats("fp32", _usual("fp32", self.device), "bf16", _usual("bf16", self.device), by=2)
        return "fp32" if slow else "bf16"

    def _sized(self, option: _Option, most: int) -> _Option:
        """The same with as many candidates in a pack as are worth it."""
        while option.size * 2 <= min(_LARGEST[self.device.type], most):
            larger = option._replace(size=option.size * 2)
            if not self._beats(f"pack of {larger.size}", larger, f"pack of {option.size}", option, by=_WORTH):
                break
            option = larger
        return option

    def _beats(self, new: str, option: _Option, known: str, usual: _Option, by: float = 1.0) -> bool:
        """Whether a candidate's step takes less than 1 / `by` of the usual one's; False where there is no time for it.

        They take turns, since machines are noisy, until it is clear.
        """
        self.named[known] = usual
        ratio = 0.0
        if usual not in self.tried:
            self._time(usual)
            # The first step of a process is slow.
            if not self._is_late(usual):
                self._time(usual)
        for _ in range(_ROUNDS):
            if self._is_late(option):
                break
            if option in self.tried:
                self._time(usual)
            self._time(option)
            self.named[new] = option
            ratio = self.tried[usual] / self.tried[option] / by
            if not 1 / _CLEAR < ratio < _CLEAR:
                break
        return ratio > 1

    def _is_late(self, option: _Option) -> bool:
        """Whether another step would end too late, by how long the last one took."""
        loading = 0.0 if option.precision in self.backbones else self._loading
        return time.perf_counter() + loading + option.size * self._last > self._end

    def _time(self, option: _Option) -> None:
        """The least time of a candidate's step so far."""
        backbone = self._loaded(option.precision)
        backbone.precision = precision_of(option.precision, option.attention)
        seconds = self._step(backbone, option.size) / option.size
        self.tried[option] = min(self.tried.get(option, math.inf), seconds)

    def _loaded(self, precision: Name) -> Backbone:
        if precision not in self.backbones:
            begin = time.perf_counter()
            self.backbones[precision] = self._backbone(precision)
            self._loading = time.perf_counter() - begin
        return self.backbones[precision]

    def _backbone(self, precision: Name) -> Backbone:
        task, chosen = self.task, choose_precision(precision, self.device)
        return Backbone(self.spec.source, task.readout, chosen, self.device, task.pad_id)

    def _flops(self, backbone: Backbone, candidate: Candidate | None = None) -> int:
        lengths = Lengths.of(*(np.full(len(self.batch.index), length) for length in self.batch.lengths))
        work, first = Workload(lengths, Lengths(0, 0, 0), lengths, lengths, self.batch.weight), self.task.readout.reads
        model = CostModel(backbone.shape, work, 1, caching=False, first_token=first == "one")
        return model.candidate((candidate or self.typical).hybrid)

    def _step(self, backbone: Backbone, size: int, candidate: Candidate | None = None) -> float:
        """Seconds of the fastest of a few steps of a pack of that size."""
        candidate = candidate or self.typical
        is_head = candidate.hybrid.is_empty and candidate is not self.typical
        starts = [backbone.shape.entrance(backbone.shape.layers) if is_head else 0] * size
        shape = (*self.batch.shape, backbone.shape.hidden)
        states = {s: torch.zeros(shape, dtype=backbone.dtype, device=self.device) for s in set(starts) if s}
        best, begin = math.inf, time.perf_counter()
        with Pack(backbone, [candidate] * size, self.spec.settings, starts, _STEPS) as pack:
            for step in range(1, _STEPS + 1):
                clock = self._clock()
                pack.step(self.batch, states, self.task.readout)
                wait_for(self.device)
                best = min(best, self._clock() - clock)
                self._last = (time.perf_counter() - begin) / step / size
                if step * size * self._last > _LONG:
                    break
        return best

    def _most(self, backbone: Backbone) -> int:
        """Candidates whose activations for the longest batch fit in the memory that is free."""
        with Pack(backbone, [self.typical], self.spec.settings) as pack:
            needed = _saved_bytes(backbone, pack, self.longest)
        return max(1, int(_MEMORY * memory_here() / self.share / max(needed, 1)))

    def _collate(self, group: np.ndarray) -> Batch:
        return collate(self.task.train, group, self.task.pad_id).to(self.device)


def _usual(precision: Name, device: torch.device) -> _Option:
    return _Option(precision, attention_name(choose_precision(precision, device)))


def _saved_bytes(backbone: Backbone, pack: Pack, batch: Batch) -> int:
    """Of what a forward pass keeps for the backward pass, without weights."""
    saved: dict[int, int] = {}

    def count(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    known = {p.untyped_storage().data_ptr() for p in [*backbone.model.parameters(), *pack.parameters()]}
    with torch.autograd.graph.saved_tensors_hooks(count, lambda t: t):
        pack.forward(batch, {})
    return sum(size for place, size in saved.items() if place not in known)


class _Part(NamedTuple):
    """What a candidate's step takes beyond the overhead, and what of."""

    seconds: float
    flops: int
    places: int


def _of_a_place(many: _Part, few: _Part) -> float:
    """Seconds of a place, where two steps take theirs by FLOPs and by places."""
    part = (many.flops * few.seconds - few.flops * many.seconds) / (
        many.flops * few.places - few.flops * many.places or math.inf
    )
    # Times are noisy: most of a step is of FLOPs.
    return min(max(0.0, part), _OF_PLACES * many.seconds / many.places)


def _shallow(candidate: Candidate) -> Candidate:
    """The first method of its lowest layer, alone: as deep, with fewer places."""
    layers = candidate.hybrid.layers
    lowest = next((i for i, methods in enumerate(layers) if methods), None)
    chosen = {} if lowest is None else {lowest: layers[lowest][:1]}
    return Candidate(Hybrid.from_layers(len(layers), chosen), candidate.training)
