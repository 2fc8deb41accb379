"""Seeded choices of rows that keep the shares of the classes."""

from __future__ import annotations

from collections.abc import Sequence


def allot(counts: Sequence[int], size: int) -> list[int]:
    """How many of `size` rows fall to each class: in proportion to `counts`, at least 1, at most its count.

    Needs len(counts) <= size <= sum(counts) and counts >= 1; a class differs from its exact share by less than 1
    row unless that share is below 1.
    """
    import numpy as np

    have = np.asarray(counts)
    exact = have * (size / have.sum())
    given = np.clip(np.floor(exact).astype(int), 1, have)
    while given.sum() < size:
        given[np.argmax(np.where(given < have, exact - given, -np.inf))] += 1
    while given.sum() > size:
        given[np.argmax(np.where(given > 1, given - exact, -np.inf))] -= 1
    return [int(number) for number in given]


def pick(labels: Sequence[int] | None, total: int, size: int, seed: Sequence[int]) -> list[int]:
    """`size` of the indices 0..total-1, ascending, chosen by `seed`: by class where `labels` [total] are given.

    `size` must be at least the number of classes in `labels`.
    """
    import numpy as np

    random = np.random.default_rng(list(seed))
    if labels is None:
        return sorted(int(i) for i in random.choice(total, size, replace=False))
    values = np.asarray(labels)
    present, counts = np.unique(values, return_counts=True)
    chosen = [
        random.choice(np.flatnonzero(values == value), number, replace=False)
        for value, number in zip(present, allot(counts.tolist(), size), strict=True)
    ]
    return sorted(int(i) for i in np.concatenate(chosen))


def rest(total: int, taken: Sequence[int]) -> list[int]:
    """The indices 0..total-1 that are not in `taken`, ascending."""
    gone = set(taken)
    return [index for index in range(total) if index not in gone]
