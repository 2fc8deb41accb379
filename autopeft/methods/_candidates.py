"""The candidates of a pack, of which a bank of a low layer may hold the first ones only."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from autopeft.methods._bank import Bank


def count_of(banks: Sequence[Bank]) -> int:
    """How many candidates there are."""
    return max(len(bank.methods) for bank in banks)


def by_candidate(banks: Sequence[Bank]) -> Iterator[tuple[int, list[Bank]]]:
    """Each candidate that has the method, by its number, and the banks in which it has it."""
    for k in range(count_of(banks)):
        own = [bank for bank in banks if k < len(bank.methods) and bank.methods[k] is not None]
        if own:
            yield k, own
