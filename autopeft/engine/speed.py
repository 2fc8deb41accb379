"""A few steps, timed and thrown away: which precision and attention, how many candidates at once, how long it takes."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping

import numpy as np
import torch

from autopeft.candidate import Candidate
from autopeft.engine.backbone import Backbone, choose_precision, fast_bf16
from autopeft.engine.data import Batch, TokenizedTask, collate, training_groups
from autopeft.engine.pack import Pack
from autopeft.engine.schedule import CostModel, Lengths, Workload
from autopeft.engine.setup import Name, Setup, attention_name, precision_of
from autopeft.engine.worker import WorkerSpec, device
from autopeft.hybrid import Hybrid

#: A pack must be so much faster, a candidate, than one of half its size: large packs learn less from each other.
_WORTH = 1.04
#: Seconds after which no larger pack is tried, and the largest.
_PATIENCE, _LARGEST = 4.0, {"cpu": 16, "cuda": 64}
#: Share of the free memory that a pack may use.
_MEMORY = 0.5
_STEPS = 3
_ATTENTIONS = ("matmul", "fused")


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
        self.device, self.tried = device(), dict[str, float]()
        groups = training_groups(task.train, spec.settings.batch_size, spec.settings.seed, 1)
        groups.sort(key=lambda group: int(task.train.lengths[group].max()))
        self.batch = self._collate(groups[len(groups) // 2])
        self.longest = self._collate(groups[-1])

    def setup(self) -> Setup:
        """What is fastest here."""
        precision = self._precision()
        backbone = self._backbone(precision)
        attention = self._fastest({name: (backbone, precision, name, 1) for name in _ATTENTIONS})
        size, each = self._size(backbone, precision, attention)
        head = Candidate(Hybrid.uniform(backbone.shape.layers))
        overhead = min(self._step(backbone, size, head) / size, 0.5 * each)
        return Setup(
            device=str(self.device),
            precision=precision,
            attention=attention,
            pack=size,
            flops_per_second=self._flops(backbone) / (each - overhead),
            seconds_per_step=overhead,
            milliseconds={name: round(1e3 * seconds, 3) for name, seconds in self.tried.items()},
        )

    def _precision(self) -> Name:
        asked = self.spec.settings.precision
        if asked != "auto":
            return asked
        # Where bf16 is emulated it takes seconds to find out how slow it is; and scores depend on the precision, so a
        # moment's noise on a busy machine must not decide: half as fast it would have to be.
        if not fast_bf16(self.device):
            return "fp32"
        names: tuple[Name, Name] = ("bf16", "fp32")
        first = {name: choose_precision(name, self.device) for name in names}
        tried: dict[str, tuple[Backbone, Name, str, int]] = {
            name: (self._backbone(name), name, attention_name(first[name]), 1) for name in names
        }
        self._fastest(tried)
        return "fp32" if self.tried["bf16"] > 2 * self.tried["fp32"] else "bf16"

    def _size(self, backbone: Backbone, precision: Name, attention: str) -> tuple[int, float]:
        """The number of candidates in a pack, and a candidate's seconds a step in it."""
        begin, largest = time.perf_counter(), min(_LARGEST[self.device.type], self._most(backbone))
        size, each = 1, self.tried[attention]
        while size * 2 <= largest and time.perf_counter() - begin < _PATIENCE:
            pair = {f"pack of {n}": (backbone, precision, attention, n) for n in (size, size * 2)}
            if self._fastest(pair, rounds=2) == f"pack of {size}":
                break
            smaller, larger = (self.tried[name] for name in pair)
            if larger * _WORTH > smaller:
                break
            size, each = size * 2, larger
        return size, each

    def _fastest(self, options: Mapping[str, tuple[Backbone, Name, str, int]], rounds: int = _STEPS) -> str:
        """The option with the least time of a candidate's step; they take turns, since machines are noisy."""
        best = dict.fromkeys(options, math.inf)
        for _ in range(rounds):
            for name, (backbone, precision, attention, size) in options.items():
                backbone.precision = precision_of(precision, attention)
                best[name] = min(best[name], self._step(backbone, size) / size)
        self.tried |= best
        return min(best, key=lambda name: best[name])

    def _backbone(self, precision: Name) -> Backbone:
        task, chosen = self.task, choose_precision(precision, self.device)
        return Backbone(self.spec.source, task.readout, chosen, self.device, task.pad_id)

    def _flops(self, backbone: Backbone) -> int:
        lengths = Lengths.of(np.full(len(self.batch.index), self.batch.inputs["input_ids"].shape[1]))
        work = Workload(lengths, Lengths(0, 0, 0), lengths, lengths)
        return CostModel(
            backbone.shape, work, 1, caching=False, first_token=self.task.readout.reads == "one"
        ).candidate(self.typical.hybrid)

    def _step(self, backbone: Backbone, size: int, candidate: Candidate | None = None) -> float:
        """Seconds of the second of two steps of a pack of that size."""
        candidate = candidate or self.typical
        starts = [0 if candidate is self.typical else backbone.shape.layers] * size
        shape = (*self.batch.inputs["input_ids"].shape, backbone.shape.hidden)
        states = {s: torch.zeros(shape, dtype=backbone.dtype, device=self.device) for s in set(starts) if s}
        with Pack(backbone, [candidate] * size, self.spec.settings, starts, 2) as pack:
            pack.step(self.batch, states, self.task.readout)
            self._wait()
            begin = time.perf_counter()
            pack.step(self.batch, states, self.task.readout)
            self._wait()
            return time.perf_counter() - begin

    def _most(self, backbone: Backbone) -> int:
        """Candidates whose activations for the longest batch fit in the memory that is free."""
        saved: dict[int, int] = {}

        def count(tensor: torch.Tensor) -> torch.Tensor:
            storage = tensor.untyped_storage()
            saved[storage.data_ptr()] = storage.nbytes()
            return tensor

        with Pack(backbone, [self.typical], self.spec.settings) as pack:
            known = {p.untyped_storage().data_ptr() for p in [*backbone.model.parameters(), *pack.parameters()]}
            with torch.autograd.graph.saved_tensors_hooks(count, lambda t: t):
                pack.forward(self.longest, {})
        needed = sum(size for place, size in saved.items() if place not in known)
        return max(1, int(_MEMORY * _free_memory(self.device) / self.share / max(needed, 1)))

    def _collate(self, group: np.ndarray) -> Batch:
        return collate(self.task.train, group, self.task.pad_id).to(self.device)

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()


def _free_memory(device: torch.device) -> int:
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    import psutil

    return int(psutil.virtual_memory().available)
