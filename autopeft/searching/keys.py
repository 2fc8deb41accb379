"""What candidates are called: by their number, and by their keys in short."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from autopeft.candidate import Evaluation

#: Characters at the least.
LEAST = 6


def short_keys(keys: Iterable[str]) -> dict[str, str]:
    """The shortest beginning of each key that no other of them has, of six characters at the least.

    All are of one length, so that they stand in a column.
    """
    known = sorted(set(keys))
    most = max(map(len, known), default=LEAST)
    length = next((n for n in range(LEAST, most) if len({key[:n] for key in known}) == len(known)), most)
    return {key: key[:length] for key in known}


def number_of(evaluation: Evaluation) -> str:
    """`#6`, as everywhere; empty for what is no trial of a search."""
    return f"#{evaluation.number}" if evaluation.number >= 0 else ""


def named(evaluation: Evaluation, keys: Mapping[str, str] | None = None) -> str:
    """`#6 4f31ab`: the number and the key, in short where `keys` has that."""
    key = evaluation.key if keys is None else keys[evaluation.key]
    return f"{number_of(evaluation)} {key}".lstrip()
