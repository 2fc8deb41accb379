"""Numbers that are what was to be found."""

from __future__ import annotations

import re
from collections.abc import Sequence
from decimal import Decimal
from typing import ClassVar

from autopeft.metrics._base import TextMetric

_NUMBER = re.compile(r"(?<![\w.])[-−]?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?!\d)")  # noqa: RUF001 - a minus sign
#: What GSM8K writes before the answer.
_MARK = "####"


class NumberMatch(TextMetric):
    """The share of texts whose last number is that of a reference; in both, that after `####` where that stands."""

    name: ClassVar[str] = "number_match"
    description: ClassVar[str] = "share of texts whose last number (or that after ####) is the reference's"

    def compare(self, texts: Sequence[str], references: Sequence[Sequence[str]]) -> float:
        """From 0 to 1; a row whose references have no number is never right."""
        return sum(_right(text, own) for text, own in zip(texts, references, strict=True)) / len(texts)

    def complaint(self, references: Sequence[Sequence[str]]) -> str:
        """That there is no number in any."""
        has = any(_last(text) is not None for own in references for text in own)
        return "" if has else "no answer has a number in it"


def _right(text: str, references: Sequence[str]) -> bool:
    found = _last(text)
    return found is not None and found in map(_last, references)


def _last(text: str) -> Decimal | None:
    _, _, after = text.rpartition(_MARK)
    found = _NUMBER.findall(after)
    return Decimal(found[-1].replace(",", "").replace("−", "-")) if found else None  # noqa: RUF001
