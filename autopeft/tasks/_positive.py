"""Which of two classes `f1` is of."""

from __future__ import annotations

from collections.abc import Sequence

from autopeft.errors import AutopeftError, suggest
from autopeft.tasks._labels import folded, label_key


def positive_class(
    asked: str | int | float | bool | None, names: Sequence[str], metrics: Sequence[str], where: str
) -> int | None:
    """The number of the class that `f1` is of, where one is asked for.

    `AutopeftError` starting with `where` for a class that is not there, and where it would change nothing.
    """
    if asked is None:
        return None
    name = label_key(asked)
    name = next((known for known in names if folded(known) == folded(name)), name)
    if "f1" not in metrics or len(names) != 2:
        what = "there are not two classes" if "f1" in metrics else "'f1' is not among the metrics"
        raise AutopeftError(f"{where}: '{name}' changes nothing, as {what}; leave it out")
    if name not in names:
        raise AutopeftError(f"{where}: unknown class '{name}'; {suggest(name, names)}")
    return list(names).index(name)


def positive_remark(positive: int | None, names: Sequence[str], metrics: Sequence[str]) -> tuple[str, ...]:
    """What a user should know of `f1`: which class it is of, and how to choose the other."""
    if "f1" not in metrics or len(names) != 2:
        return ()
    if positive is not None:
        return (f"f1 is that of the class '{names[positive]}', as task.positive says",)
    return (
        f"f1 is that of the class '{names[1]}', the later of the two; for that of '{names[0]}' set task.positive to it",
    )
