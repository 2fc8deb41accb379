"""Rows that a language model learns from: what a task's options say of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from pydantic import Field, field_validator, model_validator

from autopeft.cells import plain, shown
from autopeft.doors import read_text, within
from autopeft.errors import AutopeftError, suggest
from autopeft.formats import FORMATS, TEMPLATES, Detected, Options, detect
from autopeft.formats._base import Score
from autopeft.readouts import READOUTS
from autopeft.tasks._base import Task
from autopeft.tasks._rows import Rows, one_or_two

#: What such rows are read for where the task does not say it.
_USUAL = "causal_lm"
_AUTO = "auto"
#: Characters of a chat template; the longest known have 20,000.
_MOST_CHARACTERS = 1_000_000
#: Options that are for such rows only.
OPTIONS = ("format", "columns", "score", "system", "template", "group")


class Formatted(Task):
    """Base of tasks that read labelled texts where `text` names their column, else rows of one of the formats."""

    text: str | list[str] | None = Field(None, description="column of labelled texts, or two; else 'format' is meant")
    label: str = "label"
    regression: bool | None = None
    format: str | None = Field(None, description="of rows for a language model: auto, or one of `autopeft list`'s")
    columns: dict[str, str] | None = Field(None, description="{theirs: ours}, or {a.b: ours} for b in objects of a")
    score: Score | None = Field(None, description="what is learned: completion, assistant, last (turn) or all")
    system: str | None = Field(None, description="system turn for rows that have none")
    template: str | None = Field(None, description="chat template: auto (the tokenizer's), plain, none, or a file")
    group: str | None = Field(None, description="column whose rows of one value stay in one split")

    _columns = field_validator("text", mode="before")(one_or_two)

    @field_validator("label", mode="before")
    @classmethod
    def _one_label(cls, value: Any) -> Any:
        if isinstance(value, (list, tuple)):
            raise ValueError(
                "expected one column's name; with readout: multi_label the classes of a text stand in one column, as a "
                "list or as 'a|b'"
            )
        return value

    @field_validator("format")
    @classmethod
    def _known_format(cls, value: str | None) -> str | None:
        if value not in (None, _AUTO, *FORMATS.names()):
            raise ValueError(f"unknown format '{value}'; {suggest(value, [_AUTO, *FORMATS.names()])}")
        return value

    @field_validator("columns")
    @classmethod
    def _known_columns(cls, value: dict[str, str] | None) -> dict[str, str] | None:
        known = {name for kind in FORMATS.all().values() for name in kind.names()}
        for theirs, ours in (value or {}).items():
            if ours not in known:
                raise ValueError(f"'{theirs}: {ours}': no format has a column '{ours}'; {suggest(ours, known)}")
        return value

    @model_validator(mode="after")
    def _labels_or_format(self) -> Self:
        own = [name for name in OPTIONS if getattr(self, name) is not None]
        kind = READOUTS.all().get(self.readout) if self.readout else None
        written = kind is not None and kind.tokenises
        if self.text is not None and own:
            raise ValueError(
                f"'{own[0]}' is for rows of a language model, and 'text' for labelled texts; leave one out"
            )
        if self.text is not None and written:
            column = self.labelled[0][0]
            raise ValueError(f"text: for readout '{self.readout}' write columns: {{{column}: text}} instead")
        labelled = self.regression is not None or (self.readout is not None and not written)
        if self.text is None and labelled:
            raise ValueError("text: missing; name the column of the texts")
        return self

    @property
    def written(self) -> bool:
        """Whether its rows are conversations, and not labelled texts."""
        return self.text is None

    def _written_as(self) -> dict[str, Any]:
        """Of `Raw`: what conversations are read for, how they are written, and what is to be said of them."""
        note = "" if self.score is None else f"scored: {self.score}"
        return {"readout": self.readout or _USUAL, "template": self._template(), "note": note}

    def _detected(self, names: Sequence[str], place: str) -> Detected:
        return detect(names, self.format, self.columns, place, sure=self.readout is not None)

    def _conversations(
        self, records: Iterable[tuple[int, Mapping[str, Any]]], detected: Detected, place: str, mark: str = ", row "
    ) -> Rows:
        """The rows of `(number, record)` pairs; `AutopeftError` with the row's place for what is wrong in one."""
        options = Options(self.score, self.system)
        texts, numbers, groups = [], [], []
        for number, record in records:
            where = f"{place}{mark}{number}"
            texts.append(detected.conversation(record, options, where).to_json())
            numbers.append(number)
            if self.group is not None:
                groups.append(_group(record, self.group, where))
        if not texts:
            raise AutopeftError(f"{place}: no rows; a split needs at least one")
        return Rows(place, texts, None, [0] * len(texts), numbers, mark, groups or None)

    def _needed(self, detected: Detected, names: Sequence[str], place: str) -> list[str]:
        """Columns that are read."""
        if self.group is not None and self.group not in names:
            raise AutopeftError(f"{place}: group: no column '{self.group}'; {suggest(self.group, names)}")
        return list(dict.fromkeys([*detected.needed, *([self.group] if self.group else [])]))

    def _template(self) -> str | None:
        """A built-in template's name, or what a file holds; None for the tokenizer's own."""
        if self.template in (None, _AUTO):
            return None
        if self.template in TEMPLATES:
            return self.template
        path = Path(str(self.template))
        remedy = f"name a file with a Jinja template, or one of {', '.join([_AUTO, *TEMPLATES])}"
        with within(f"task {self.title}: template", remedy):
            return read_text(path, most=_MOST_CHARACTERS)


def _group(record: Mapping[str, Any], column: str, where: str) -> str:
    value = plain(record.get(column))
    if not isinstance(value, (str, int)):
        raise AutopeftError(
            f"{where}: group column '{column}' holds no text or number but {shown(value)}; mend the row"
        )
    return str(value)
