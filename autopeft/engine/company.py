"""Who may be trained with whom: what a hybrid's methods ask of the training of the whole network."""

from __future__ import annotations

import itertools
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass

from autopeft.errors import AutopeftError
from autopeft.hybrid import Hybrid
from autopeft.methods import Method
from autopeft.readouts import Readout

_ONE: tuple[float, ...] = (1.0,)


@dataclass(frozen=True)
class Company:
    """Candidates of equal company may share a pack; `most` of them at once (None: any number).

    `marks` are what `Method.company` gives, `phases` the shares of the training, and `twice` says that each step has
    two forward passes.
    """

    marks: frozenset[Hashable] = frozenset()
    phases: tuple[float, ...] = _ONE
    twice: bool = False
    most: int | None = None

    @classmethod
    def of(cls, hybrid: Hybrid) -> Company:
        """That of a candidate; `AutopeftError` when its methods divide the training differently."""
        methods = list(hybrid.methods())
        marks = frozenset(mark for m in methods if (mark := m.company()) is not None)
        divided = {m.phases: m.name for m in methods if m.phases != _ONE}
        if len(divided) > 1:
            names = " and ".join(f"'{name}'" for name in divided.values())
            raise AutopeftError(f"methods {names} divide the training into different phases; leave one of them out")
        most = min((m.max_pack for m in methods if m.max_pack is not None), default=None)
        return cls(marks, next(iter(divided), _ONE), any(m.twice for m in methods), most)

    def epochs(self, epochs: int) -> list[int]:
        """How many of the epochs each phase has, at least one; `AutopeftError` when there are fewer than phases."""
        if epochs < len(self.phases):
            least = len(self.phases)
            there = "1 epoch" if epochs == 1 else f"{epochs} epochs"
            raise AutopeftError(f"the training has {least} phases and {there}; set training.epochs to at least {least}")
        shares = [share / sum(self.phases) for share in self.phases]
        left = len(shares)
        ends = [0]
        for end in itertools.accumulate(shares):
            left -= 1
            # Not below: the sum of thirds may be just less than it should.
            ends.append(min(max(int(end * epochs + 1e-9), ends[-1] + 1), epochs - left))
        ends[-1] = epochs
        return [after - before for before, after in itertools.pairwise(ends)]


def check_outputs(methods: Iterable[Method | type[Method]], readout: Readout) -> None:
    """`AutopeftError` for a method that compares the outputs of two passes, where a readout keeps sums of them only."""
    for method in methods:
        if method.twice and readout.summed:
            raise AutopeftError(
                f"method '{method.name}' compares all outputs of two passes, and of {readout.called} sums alone are "
                "kept; leave it out"
            )


def companies(hybrids: Mapping[int, Hybrid]) -> list[list[int]]:
    """The numbers of hybrids that may share a pack, in packs, each in the order of the first of its company."""
    found: dict[Company, list[int]] = {}
    for number, hybrid in hybrids.items():
        found.setdefault(Company.of(hybrid), []).append(number)
    return [
        numbers[i : i + size]
        for company, numbers in found.items()
        for size in [company.most or len(numbers)]
        for i in range(0, len(numbers), size)
    ]


def unjudged(hybrid: Hybrid, epochs: int) -> int:
    """After how many epochs a candidate may not yet be stopped: those that its methods' `judged_from` names.

    A share that is the end of a phase is rounded to an epoch as the phase is.
    """
    share = max((m.judged_from for m in hybrid.methods()), default=0.0)
    if not share:
        return 0
    try:
        company = Company.of(hybrid)
        ends = list(itertools.accumulate(company.epochs(epochs)))
    except AutopeftError:
        # It is not trained at all.
        return epochs
    passed = zip(itertools.accumulate(company.phases), ends, strict=True)
    inside = [end for total, end in passed if total <= share + 1e-9]
    return min(max(int(share * epochs + 1e-9), *inside, 0), epochs)
