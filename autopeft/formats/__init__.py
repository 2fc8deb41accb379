"""Formats: users' rows of texts that a language model learns to write. One file here is one format.

A row becomes a `Conversation`, of turns or of plain parts, some of which are scored; with a tokenizer and its chat
template that becomes token ids, and which of them a loss is over.
"""

from __future__ import annotations

from autopeft.formats._apart import PairTokenizer, apart
from autopeft.formats._base import Format, Options
from autopeft.formats._conversation import Conversation, Part, Turn
from autopeft.formats._detection import Detected, detect
from autopeft.formats._pairs import Asks, asking, asks_of
from autopeft.formats._registry import FORMATS
from autopeft.formats._report import Example, Totals, example_of, remarks
from autopeft.formats._templates import TEMPLATES, with_template
from autopeft.formats._tokens import Question, RowTokenizer, RowTokens

__all__ = [
    "FORMATS", "TEMPLATES", "Asks", "Conversation", "Detected", "Example", "Format", "Options", "PairTokenizer",
    "Part", "Question", "RowTokenizer", "RowTokens", "Totals", "Turn", "apart", "asking", "asks_of", "detect",
    "example_of", "remarks", "with_template",
]  # fmt: skip
