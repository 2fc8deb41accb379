"""Keys of candidates in short."""

from __future__ import annotations

from collections.abc import Iterable

#: Characters at the least.
_LEAST = 6


def short_keys(keys: Iterable[str]) -> dict[str, str]:
    """The shortest beginning of each key that no other of them has, of six characters at the least.

    All are of one length, so that they stand in a column.
    """
    known = sorted(set(keys))
    most = max(map(len, known), default=_LEAST)
    length = next((n for n in range(_LEAST, most) if len({key[:n] for key in known}) == len(known)), most)
    return {key: key[:length] for key in known}
