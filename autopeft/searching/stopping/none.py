"""Every candidate is trained to its end."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from autopeft.searching.stopping._base import Course, StoppingPlugin


class NoStopping(StoppingPlugin):
    """Stops nothing."""

    name: ClassVar[str] = "none"
    description: ClassVar[str] = "every candidate is trained to its end"
    stops: ClassVar[bool] = False

    def stop(self, courses: Sequence[Course], epochs: int) -> set[int]:
        """Nobody."""
        return set()
