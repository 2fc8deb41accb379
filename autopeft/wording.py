"""Numbers, times and names as people read them, the same in a terminal, on pages, in Markdown and in MLflow."""

from __future__ import annotations

import math
from collections.abc import Sequence

#: Decimals of a mean and its deviation, where the deviation needs no more to be seen.
_DECIMALS = 3
#: From here on what follows the point says nothing.
_LARGE = 100_000


def spaced(name: str) -> str:
    """A metric's, a cost's or a field's name in words: `trainable_params` as `trainable params`."""
    return name.replace("_", " ")


def number(value: float | None) -> str:
    """Whole numbers with separators, others with four digits, large ones without; nothing for what was not measured."""
    if value is None or value != value:
        return ""
    if float(value).is_integer() and (abs(value) >= 1 or isinstance(value, int)):
        return f"{int(value):,}"
    if abs(value) < 0.01:
        return f"{value:.2e}" if value else "0.0000"
    return f"{value:,.4f}" if abs(value) < _LARGE else f"{value:,.0f}"


def counted(count: float, what: str) -> str:
    """So many of a thing: `1 row`, `2,000 rows`, `0.5 CPUs`."""
    said = f"{int(count):,}" if count == int(count) else f"{count:g}"
    return f"{said} {what}" if count == 1 else f"{said} {what}s"


def in_bytes(count: float | None) -> str:
    """Bytes of memory or of a file, `1.21 GiB`; nothing for what was not measured."""
    if count is None:
        return ""
    for unit, size in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if count >= size:
            scaled = count / size
            return f"{scaled:.3g} {unit}" if scaled < 999.5 else f"{scaled:,.0f} {unit}"
    return f"{count:,} B"


def with_deviation(mean: float, sd: float | None) -> str:
    """A mean and its standard deviation, `0.812±0.004`; the mean alone where there is none (None, NaN: one seed).

    Both have three decimals, and as many more as the deviation needs to be seen.
    """
    if sd is None or not math.isfinite(sd):
        return number(mean)
    # Equal scores differ by rounding.
    decimals = max(_DECIMALS, -math.floor(math.log10(sd))) if sd > 1e-6 * abs(mean) else _DECIMALS
    return f"{mean:.{decimals}f}±{sd:.{decimals}f}"


def duration(seconds: float) -> str:
    """90 as '1.5 min'."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def ranges(numbers: Sequence[int]) -> str:
    """[0, 1, 2, 5] as '0-2,5'."""
    parts: list[list[int]] = []
    for n in numbers:
        if parts and n == parts[-1][-1] + 1:
            parts[-1].append(n)
        else:
            parts.append([n])
    return ",".join(str(p[0]) if len(p) == 1 else f"{p[0]}-{p[-1]}" for p in parts)
