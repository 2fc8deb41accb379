"""What values of methods' fields are refused with, each with the method's name and the field's."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, ClassVar

from autopeft.errors import AutopeftError, shown, suggest

#: Of a method's size in one layer: more than any width of a model, and little enough to count and compare with.
MOST_SIZE = 65_536
#: Of a factor on what a method adds, and 1 / the least: what lies beyond is zero or infinite in half precision.
_MOST_SCALE = 1e6


class Checks:
    """A part of every method: `AutopeftError` for a field that does not hold what it should."""

    name: ClassVar[str]

    def _check_scale(self, scale: Any, name: str = "scale") -> float:
        """A factor on what the method adds, as a float."""
        if not is_number(scale) or not 1 / _MOST_SCALE <= scale <= _MOST_SCALE:
            most = f"{_MOST_SCALE:,.0f}"
            raise self._wrong(f"{name} must be above 0 (1/{most} to {most})", scale)
        return float(scale)

    def _check_share(self, name: str) -> None:
        """A share of something that is there."""
        share = getattr(self, name)
        if not is_number(share) or not 0 < share <= 1:
            raise self._wrong(f"{name} must be above 0 and at most 1", share)

    def _check_count(self, name: str, most: int = MOST_SIZE) -> None:
        """A whole number from one up."""
        count = getattr(self, name)
        if not isinstance(count, int) or isinstance(count, bool) or not 1 <= count <= most:
            raise self._wrong(f"{name} must be 1 to {most:,}", count)

    def _check_choice(self, name: str, known: Collection[str]) -> None:
        """One of these names."""
        choice = getattr(self, name)
        if choice not in known:
            hint = suggest(choice, known)
            raise AutopeftError(f"method '{self.name}': unknown {name} {shown(choice)}; {hint}")

    def _wrong(self, expected: str, given: Any) -> AutopeftError:
        return AutopeftError(f"method '{self.name}': {expected}, not {shown(given)}")


def is_number(value: Any) -> bool:
    """Whether it is a number, and not true or false."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)
