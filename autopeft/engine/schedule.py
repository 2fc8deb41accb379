"""What a candidate's training costs the engine, in FLOPs: exact, and the base of every estimate of time.

Matrix products of the backbone's layers and the methods in them, as in `autopeft.costs`; trained heads are left out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from autopeft.anatomy import ModelShape
from autopeft.costs._flops import bare_flops, head_flops, passing_flops, training_flops
from autopeft.engine.company import Company
from autopeft.engine.data import TokenizedTask, Tokens, training_groups
from autopeft.engine.first_token import first_token_is_all
from autopeft.engine.settings import TrainingSettings
from autopeft.hybrid import Hybrid


@dataclass(frozen=True)
class Lengths:
    """Sums over sequences of 1, of their tokens, and of their squared tokens: all that FLOPs depend on.

    `sources`, of sequences that are written from others: sums of the tokens of those, of their squares, and of their
    products with the tokens.
    """

    sequences: int
    tokens: int
    squares: int
    sources: tuple[int, int, int] | None = None

    @classmethod
    def of(cls, lengths: np.ndarray, sources: np.ndarray | None = None) -> Lengths:
        """Of sequences [N] of these numbers of tokens, written from sources of those."""
        n = lengths.astype(np.int64)
        sums = None
        if sources is not None:
            m = sources.astype(np.int64)
            sums = int(m.sum()), int((m**2).sum()), int((m * n).sum())
        return cls(len(n), int(n.sum()), int((n**2).sum()), sums)

    def times(self, count: int) -> Lengths:
        """The same sequences so many times."""
        more = self.sources and (count * self.sources[0], count * self.sources[1], count * self.sources[2])
        return Lengths(count * self.sequences, count * self.tokens, count * self.squares, more)

    def sum_pairs(self, flops: Callable[[int, int], int]) -> int:
        """The sum of `flops(tokens, tokens of the source)`; without sources these are as many."""
        if self.sources is None:
            return self.sum(lambda n: flops(n, n))
        own = self.sum(lambda n: flops(n, 0))
        at1, at2 = (flops(0, m) - flops(0, 0) for m in (1, 2))
        square = (at2 - 2 * at1) // 2
        both = flops(1, 1) - flops(1, 0) - at1
        tokens, squares, products = self.sources
        return own + (at1 - square) * tokens + square * squares + both * products

    def sum(self, flops: Callable[[int], int]) -> int:
        """The sum of `flops(tokens)` over the sequences: products are polynomials of second degree in the length."""
        at0, at1, at2 = (flops(n) for n in range(3))
        square = (at2 - 2 * at1 + at0) // 2
        return at0 * self.sequences + (at1 - at0 - square) * self.tokens + square * self.squares


@dataclass(frozen=True)
class Workload:
    """A task as a candidate's training goes through it, once with padding and once without.

    Of a language model's head, the tokens that are scored in training and in measuring.
    """

    trained: Lengths
    measured: Lengths
    real_trained: Lengths
    real_measured: Lengths
    scored_trained: int = 0
    scored_measured: int = 0

    @classmethod
    def of(cls, task: TokenizedTask, settings: TrainingSettings) -> Workload:
        """All epochs: training batches as they are drawn, and the validation split after each."""
        epochs = range(1, settings.epochs + 1)
        padded = [_padded(task.train, settings, epoch) for epoch in epochs]
        train, validation = lengths_of(task.train), lengths_of(task.validation)
        # Validation is sorted by length, in large batches: hardly any padding.
        measured = validation.times(settings.epochs)
        scored = (settings.epochs * task.train.weight, settings.epochs * task.validation.weight)
        drawn = Lengths.of(*(np.concatenate(part) for part in zip(*padded, strict=True)))
        return cls(drawn, measured, train.times(settings.epochs), measured, *scored)


@dataclass(frozen=True)
class CostModel:
    """FLOPs of candidates on one backbone and task. `first_token`: the last layer is computed for that token alone."""

    shape: ModelShape
    workload: Workload
    epochs: int
    caching: bool = True
    first_token: bool = True

    def candidate(self, hybrid: Hybrid) -> int:
        """What training and validating one candidate computes, frozen layers that are kept left out."""
        start = self._start(hybrid) if self.caching else 0
        return self._candidate(hybrid, start, self.workload.trained, self.workload.measured)

    def optimum(self, hybrids: Sequence[Hybrid], trained: Sequence[int] | None = None) -> int:
        """The least that any schedule computes for these: no padding, and each frozen layer once an example.

        `trained`: how many epochs each got; all of them when None.
        """
        real = self.workload
        own = [self._candidate(h, self._start(h), real.real_trained, real.real_measured) for h in hybrids]
        return self._parts(own, trained) + self.filling(max((self._start(h) for h in hybrids), default=0))

    def share(self, hybrids: Sequence[Hybrid], workers: int, trained: Sequence[int] | None = None) -> float:
        """The optimum over what is computed for these: padding, and frozen layers once a worker."""
        filled = max((self._start(h) for h in hybrids), default=0) if self.caching else 0
        computed = self._parts([self.candidate(h) for h in hybrids], trained) + workers * self.filling(filled)
        return self.optimum(hybrids, trained) / computed if computed else 1.0

    def filling(self, layers: int) -> int:
        """The lowest `layers` once an example of both splits."""
        once = [self.workload.real_trained, self.workload.real_measured]
        layers = self.shape.entrance(layers)
        total = sum(part.sum_pairs(lambda n, m: bare_flops(self.shape, n, layers, m)) for part in once)
        return total // self.epochs

    def _start(self, hybrid: Hybrid) -> int:
        return self.shape.entrance(hybrid.first_adapted)

    def _parts(self, whole: Sequence[int], trained: Sequence[int] | None) -> int:
        """The sum of whole trainings, of each so many epochs."""
        if trained is None:
            return sum(whole)
        return sum(flops * own // self.epochs for flops, own in zip(whole, trained, strict=True))

    def _candidate(self, hybrid: Hybrid, start: int, trained: Lengths, measured: Lengths) -> int:
        cut = self.first_token and self.shape.row.residual and first_token_is_all([hybrid])
        queries = 1 if cut else None

        def forward(n: int, m: int) -> int:
            return passing_flops(hybrid, self.shape, n, start, queries, m)

        passes = 2 if Company.of(hybrid).twice else 1
        training = trained.times(passes).sum_pairs(
            lambda n, m: training_flops(hybrid, self.shape, n, start, queries, m)
        )
        scored = self.workload.scored_trained * (passes if hybrid.is_empty else 2 * passes)
        return training + measured.sum_pairs(forward) + head_flops(self.shape, scored + self.workload.scored_measured)


def lengths_of(tokens: Tokens) -> Lengths:
    """Of the examples of a split, without padding."""
    return Lengths.of(*_apart(tokens))


def _apart(tokens: Tokens) -> tuple[np.ndarray, ...]:
    """Tokens of each example, or those that a decoder is given and those of its source."""
    if tokens.sources is None:
        return (tokens.lengths,)
    return tokens.lengths - tokens.sources - 1, tokens.sources


def _padded(tokens: Tokens, settings: TrainingSettings, epoch: int) -> list[np.ndarray]:
    """How many tokens each example of an epoch has in its batch, in each of its texts."""
    groups = training_groups(tokens, settings.batches, settings.seed, epoch)
    return [np.concatenate([np.full(len(g), part[g].max()) for g in groups]) for part in _apart(tokens)]
