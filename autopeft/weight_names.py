"""Names of trained weights: `hybrid.<bank>.<weight>`, and `head.<module>.<weight>` of what is trained beside it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

T = TypeVar("T")
HYBRID, HEAD = "hybrid.", "head."


def part(weights: Mapping[str, T], prefix: str) -> dict[str, T]:
    """The weights whose names begin so, without that beginning."""
    return {name.removeprefix(prefix): weight for name, weight in weights.items() if name.startswith(prefix)}
