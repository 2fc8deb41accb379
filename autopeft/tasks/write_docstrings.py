"""Real instructions without a download: functions of the installed libraries, and what is said of them."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence
from typing import ClassVar

from pydantic import Field

from autopeft.formats import Conversation, Turn
from autopeft.tasks._base import Task
from autopeft.tasks._library_sources import LIBRARIES, Libraries, LibraryTexts, first_paragraph
from autopeft.tasks._rows import Raw, Rows

_SIGNATURE = (20, 140)  # characters, both included
_SUMMARY = (20, 160)


class WriteDocstrings(Task):
    """Write the docstring of this function: signatures of the installed libraries, and first paragraphs as the answers.

    The sources are parsed, not imported; the rows are the same for the same installed versions, and kept in the
    user's cache folder as those of `docstrings`. No function's name stands in two splits.
    """

    name: ClassVar[str] = "write_docstrings"
    description: ClassVar[str] = "write a function's docstring: instructions from installed libraries, no download"

    per_library: int = Field(default=50, ge=5, description="functions of each library")
    libraries: Libraries = None
    validation_share: float = Field(default=0.15, gt=0, le=0.3)

    def _read(self) -> Raw:
        libraries = tuple(self.libraries or LIBRARIES)
        found = LibraryTexts(self.name, "per_library", _functions).read(libraries, self.per_library, self.seed)
        pairs = [pair.split("\n", 1) for library in libraries for pair in found[library]]
        rows = [_conversation(signature, summary).to_json() for signature, summary in pairs]
        names = [signature.split("(")[0] for signature, _ in pairs]
        train = Rows(self.name, rows, None, [0] * len(rows), groups=names)
        return Raw(train, readout="causal_lm", note="of the installed versions")


def _conversation(signature: str, summary: str) -> Conversation:
    asked = f"Write the docstring of this Python function: {signature}"
    return Conversation(turns=(Turn("user", asked), Turn("assistant", summary, scored=True)))


def _functions(tree: ast.Module, own_names: Sequence[str]) -> Iterator[str]:
    """`signature`, line break, `summary` of the file's public functions that have both, none too long."""
    for node in ast.walk(tree):
        if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) or node.name.startswith("_"):
            continue
        summary, returns = first_paragraph(node), "" if node.returns is None else f" -> {ast.unparse(node.returns)}"
        signature = " ".join(f"def {node.name}({ast.unparse(node.args)}){returns}".split())
        fits = _SIGNATURE[0] <= len(signature) <= _SIGNATURE[1] and _SUMMARY[0] <= len(summary) <= _SUMMARY[1]
        if fits and summary.endswith("."):
            yield f"{signature}\n{summary}"
