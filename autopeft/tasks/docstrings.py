"""Real text without a download: the docstrings of the libraries that are installed anyway."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence
from typing import ClassVar

from pydantic import Field

from autopeft.tasks._base import Task
from autopeft.tasks._library_sources import LIBRARIES, Classes, LibraryTexts, first_paragraph
from autopeft.tasks._rows import Raw, Rows

_CHARACTERS = (20, 400)  # of a text, both included


class Docstrings(Task):
    """Which library is this docstring from? First paragraphs that don't name their library, by class in equal number.

    The libraries' sources are parsed, not imported; the texts are the same for the same installed versions. They are
    kept in the user's cache folder ($AUTOPEFT_CACHE, or autopeft in $XDG_CACHE_HOME or ~/.cache).
    """

    name: ClassVar[str] = "docstrings"
    description: ClassVar[str] = "which installed library a docstring is from: 12 classes, real text, no download"

    per_class: int = Field(default=300, ge=10, description="examples of each library")
    libraries: Classes = None
    validation_share: float = Field(default=0.15, gt=0, le=0.3)

    def _read(self) -> Raw:
        libraries = tuple(self.libraries or LIBRARIES)
        texts = LibraryTexts(self.name, "per_class", _texts).read(libraries, self.per_class, self.seed)
        first = [text for library in libraries for text in texts[library]]
        labels = [library for library in libraries for _ in texts[library]]
        return Raw(Rows("docstrings", first, None, labels), label_names=libraries, note="of the installed versions")


def _texts(tree: ast.Module, own_names: Sequence[str]) -> Iterator[str]:
    """The first paragraphs of the file's docstrings that don't name their library."""
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            text = first_paragraph(node)
            if _CHARACTERS[0] <= len(text) <= _CHARACTERS[1] and not any(name in text.lower() for name in own_names):
                yield text
