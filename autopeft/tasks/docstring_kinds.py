"""Real text without a download that a frozen model knows little of: what kind of thing a docstring documents."""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import partial
from typing import ClassVar

from pydantic import Field

from autopeft.tasks._base import Task
from autopeft.tasks._library_sources import LIBRARIES, Libraries, LibraryTexts, first_paragraph
from autopeft.tasks._rows import Raw, Rows

_Node = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef

KINDS: dict[str, tuple[type[_Node], ...]] = {
    "class": (ast.ClassDef,),
    "function": (ast.FunctionDef, ast.AsyncFunctionDef),
    "module": (ast.Module,),
}
#: These two have too few modules with a docstring.
_LIBRARIES = tuple(library for library in LIBRARIES if library not in {"ray", "datasets"})
_CHARACTERS = (20, 300)  # of a text, both included


class DocstringKinds(Task):
    """Is this the docstring of a class, of a function or of a module? First paragraphs, as many of each kind but for
    those that are said of two kinds.

    What they are about does not say it, how they are put does: so a head on the frozen model's outputs gets little of
    it, and trained layers much. The libraries' sources are parsed, not imported; the texts are the same for the same
    installed versions, and kept in the user's cache folder as those of `docstrings`.
    """

    name: ClassVar[str] = "docstring_kinds"
    description: ClassVar[str] = "what a docstring is of, class, function or module: real text, no download"

    per_library: int = Field(default=50, ge=5, description="examples of each kind in each library")
    libraries: Libraries = None
    validation_share: float = Field(default=0.2, gt=0, le=0.3)

    def _read(self) -> Raw:
        libraries = tuple(self.libraries or _LIBRARIES)
        found = {
            kind: LibraryTexts(self.name, "per_library", partial(_texts, nodes), part=kind)
            for kind, nodes in KINDS.items()
        }
        rows = [
            (text, kind)
            for kind, source in found.items()
            for texts in source.read(libraries, self.per_library, self.seed).values()
            for text in texts
        ]
        kinds_of = Counter(text for text, _ in rows)
        kept = [(text, kind) for text, kind in rows if kinds_of[text] == 1]
        train = Rows(self.name, [text for text, _ in kept], None, [kind for _, kind in kept])
        return Raw(train, label_names=tuple(KINDS), note="of the installed versions")


def _texts(nodes: tuple[type[_Node], ...], tree: ast.Module, own_names: Sequence[str]) -> Iterator[str]:
    """The first paragraphs of the docstrings of such nodes, none too short or too long."""
    for node in ast.walk(tree):
        if isinstance(node, nodes):
            text = first_paragraph(node)
            if _CHARACTERS[0] <= len(text) <= _CHARACTERS[1]:
                yield text
