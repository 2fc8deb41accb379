"""The policy for splits: which rows become train, validation and test. All choices are seeded and keep class shares."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Sequence

from autopeft.cells import shown
from autopeft.errors import AutopeftError
from autopeft.readouts import doubt
from autopeft.tasks._data import Split
from autopeft.tasks._rows import Raw
from autopeft.wording import counted

Parts = tuple[Split, Split, Split]

# Each choice has a random stream of its own, so that e.g. a limit on train does not move the validation rows.
_CUT_TEST, _CUT_VALIDATION, _LIMIT = 0, 1, 2


def divide(
    raw: Raw, read: tuple[Split, Split | None, Split | None], names: tuple[str, ...], share: float, seed: int
) -> tuple[Parts, str]:
    """Train, validation and test from the splits as `read`, and a line that says what the last two are.

    `names`: the classes; empty for labels without regard to which it is cut. `share`: of train, for each cut.
    `AutopeftError` when train has too few rows of a class to cut from.
    """
    train, validation, test = read
    place = raw.train.place
    present = Counter(train.labels)
    of_validation = of_test = f"{100 * share:g}% of train, {'stratified' if names else 'at random'}, seed {seed}"
    if test is not None:
        of_test = "the set's test split"
    elif validation is not None:
        test, validation, of_test = validation, None, "the set's validation split"
    if validation is not None:
        of_validation = "the set's validation split"
    cuts = (test is None) + (validation is None)
    _check_enough(train, names, cuts, place)
    size = max(len(present) if names else 1, int(share * len(train)))
    groups = raw.train.groups
    if groups and cuts:
        of_validation, of_test = (of.replace("at random", "at random, by group") for of in (of_validation, of_test))
        if len(set(groups)) <= cuts:
            raise AutopeftError(f"{place}: {len(set(groups))} groups are too few to cut from (needs {cuts + 1})")
    if test is None:
        train, test, groups = _cut(train, size, bool(names), (seed, _CUT_TEST), groups, cuts)
    if validation is None:
        train, validation, _ = _cut(train, size, bool(names), (seed, _CUT_VALIDATION), groups, 1)
    return (train, validation, test), f"validation: {of_validation}; test: {of_test}"


def _check_enough(train: Split, names: tuple[str, ...], cuts: int, place: str) -> None:
    """Every split needs a row, of each class where there are classes."""
    need = cuts + 1
    what = "validation and test" if cuts == 2 else "validation"
    remedy = f"to cut {what} from (needs {need}); give these splits, or more rows"
    if not cuts:
        return
    if len(train) < need:
        raise AutopeftError(f"{place}: {_few(len(train))} too few {remedy}")
    for label, count in sorted(Counter(train.labels).items()) if names else []:
        if count < need:
            many = f"; {len(names):,} labels in {len(train):,} rows: {doubt(names)}"
            many = many if 2 * len(names) > len(train) else ""
            of_label = f" of label {shown(names[int(label)])}"
            raise AutopeftError(f"{place}: {_few(count, of_label)} too few {remedy}{many}")


def _few(rows: int, of: str = "") -> str:
    return f"{counted(rows, 'row')}{of} {'is' if rows == 1 else 'are'}"


def _cut(
    split: Split, size: int, by_class: bool, seed: Sequence[int], groups: Sequence[str] | None, left: int
) -> tuple[Split, Split, Sequence[str] | None]:
    """The split without the chosen `size` rows, these, and the groups of the former; all keep the order.

    Of groups whole ones are chosen, about `size` rows of them; `left` of them stay at least.
    """
    labels = split.labels if by_class else None
    chosen = _pick_groups(groups, size, seed, left) if groups else pick(labels, len(split), size, seed)
    gone = set(chosen)
    rest = [index for index in range(len(split)) if index not in gone]
    return split.take(rest), split.take(chosen), [groups[i] for i in rest] if groups else None


def _pick_groups(groups: Sequence[str], size: int, seed: Sequence[int], left: int) -> list[int]:
    """The rows, ascending, of groups in a seeded order: of one at least, and until they are `size`."""
    import numpy as np

    sizes = Counter(groups)
    order = [sorted(sizes)[i] for i in np.random.default_rng(list(seed)).permutation(len(sizes))]
    chosen: set[str] = set()
    count = 0
    for group in order[: len(order) - left]:
        if chosen and count + sizes[group] > size:
            continue
        chosen.add(group)
        count += sizes[group]
    return [i for i, group in enumerate(groups) if group in chosen]


def limited(parts: Parts, limits: Sequence[int | None], names: tuple[str, ...], seed: int, where: str) -> Parts:
    """The splits, each with at most its limit of rows; `AutopeftError` for a limit below the number of its classes."""
    train, validation, test = (
        _limited(split, limit, names, (seed, _LIMIT + stream), f"{where}: {key}_limit")
        for stream, (key, split, limit) in enumerate(zip(("train", "validation", "test"), parts, limits, strict=True))
    )
    return train, validation, test


def _limited(split: Split, limit: int | None, names: tuple[str, ...], seed: Sequence[int], where: str) -> Split:
    if limit is None or limit >= len(split):
        return split
    classes = len(set(split.labels)) if names else 1
    if limit < classes:
        raise AutopeftError(f"{where}: {limit} rows can't hold all {classes} labels; give at least {classes}")
    return split.take(pick(split.labels if names else None, len(split), limit, seed))


def pick(labels: Sequence[float] | None, total: int, size: int, seed: Sequence[int]) -> list[int]:
    """`size` of the indices 0..total-1, ascending, chosen by `seed`: by class where `labels` [total] are given.

    `size` must be at least the number of classes in `labels`.
    """
    import numpy as np

    random = np.random.default_rng(list(seed))
    if labels is None:
        return sorted(random.choice(total, size, replace=False).tolist())
    values = np.asarray(labels)
    counts = np.unique(values, return_counts=True)[1]
    # Sorted once, so that time doesn't grow with rows times classes.
    by_class = np.split(np.argsort(values, kind="stable"), np.cumsum(counts)[:-1])
    chosen: list[int] = []
    for indices, number in zip(by_class, allot(counts.tolist(), size), strict=True):
        chosen += random.choice(indices, number, replace=False).tolist()
    return sorted(chosen)


def allot(counts: Sequence[int], size: int) -> list[int]:
    """How many of `size` rows fall to each class: in proportion to `counts`, at least 1, at most its count.

    Needs counts >= 1 and len(counts) <= size <= sum(counts).
    """
    import numpy as np

    have = np.asarray(counts)
    exact = have * size / have.sum()
    given = np.maximum(1, np.floor(exact).astype(int))
    if (missing := size - int(given.sum())) > 0:  # fewer than the classes with a remainder: at most one more each
        left = np.where(given < have, exact - given, -np.inf)
        given[np.argsort(-left, kind="stable")[:missing]] += 1
    over = [(exact[i] - given[i], i) for i in np.flatnonzero(given > 1)]
    heapq.heapify(over)
    for _ in range(int(given.sum()) - size):
        _, i = heapq.heappop(over)
        given[i] -= 1
        if given[i] > 1:
            heapq.heappush(over, (exact[i] - given[i], i))
    return [int(number) for number in given]
