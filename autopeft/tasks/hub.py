"""Data sets of the Hugging Face hub, or local folders that `datasets` can load."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from pydantic import field_validator

from autopeft.errors import AutopeftError, suggest
from autopeft.hub import hub_answers
from autopeft.tasks._base import Task
from autopeft.tasks._rows import Raw, Rows, collect, one_or_two


class Hub(Task):
    """A data set by `path` (its hub name or a local folder), `config` and `revision`; its code is never run.

    `text`: one column's name, or two for pairs. `train`, `validation`, `test`: names of splits; the last two may be
    None, or absent under their default names. A split without labels (all of them -1 or null, as in GLUE's hidden
    tests) counts as absent; single rows without one (-1 in a column of classes) are left out, and the note says so.
    """

    name: ClassVar[str] = "hub"
    description: ClassVar[str] = "a data set of the Hugging Face hub, or a local folder of one"
    variant_field: ClassVar[str] = "path"

    path: str
    config: str | None = None
    revision: str | None = None
    text: str | list[str]
    label: str = "label"
    train: str = "train"
    validation: str | None = "validation"
    test: str | None = "test"

    _columns = field_validator("text", mode="before")(one_or_two)

    def _read(self) -> Raw:
        parts = _load(self.path, self.config, self.revision)
        left_out: list[str] = []
        train = self._rows(parts, self.train, left_out)
        if train is None:
            raise AutopeftError(f"{self.path}, split {self.train}: no row has a label; name another split in 'train'")
        validation = self._optional(parts, "validation", left_out)
        test = self._optional(parts, "test", left_out)
        return Raw(train, validation, test, self._class_names(parts[self.train]), note=", ".join(left_out))

    def _optional(self, parts: Mapping[str, Any], field: str, left_out: list[str]) -> Rows | None:
        split = getattr(self, field)
        # A default name was not asked for, so a set without such a split is fine.
        if split is None or (split == field and split not in parts):
            return None
        return self._rows(parts, split, left_out)

    def _rows(self, parts: Mapping[str, Any], split: str, left_out: list[str]) -> Rows | None:
        """The labelled rows of a split, or None when there is no labelled one; what is left out is noted."""
        if split not in parts:
            raise AutopeftError(f"{self.path}: no split '{split}'; {suggest(split, map(str, parts))}")
        part, place = parts[split], f"{self.path}, split {split}"
        texts = [self.text] if isinstance(self.text, str) else self.text
        for column in (*texts, self.label):
            if column not in part.column_names:
                raise AutopeftError(f"{place}: no column '{column}'; {suggest(column, part.column_names)}")
        cells = {column: part[column][:] for column in (*texts, self.label)}
        labels = cells[self.label]
        if labels and all(label is None or label == -1 for label in labels):
            return None
        keep = list(range(len(labels)))
        if names := self._class_names(part):
            keep = [i for i, label in enumerate(labels) if label is not None and label != -1]
            cells[self.label] = [None if label is None else names[label] for label in labels]
        if len(keep) < len(labels):
            left_out.append(f"{len(labels) - len(keep)} rows of {split} have no label and are left out")
        records = ((i + 1, {column: values[i] for column, values in cells.items()}) for i in keep)
        return collect(records, texts, self.label, place)

    def _class_names(self, part: Any) -> tuple[str, ...] | None:
        from datasets import ClassLabel

        feature = part.features.get(self.label)
        return tuple(feature.names) if isinstance(feature, ClassLabel) else None


def _load(path: str, config: str | None, revision: str | None) -> Mapping[str, Any]:
    """The splits of a data set by name; `AutopeftError` when there are none to be had."""
    import datasets

    which = f"data set '{path}'" + (f", configuration '{config}'" if config else "")
    if not Path(path).exists() and not hub_answers():
        # Asked for the cached copy only, it answers at once; else it would go on asking for half a minute.
        datasets.config.HF_HUB_OFFLINE = True
    try:
        parts = datasets.load_dataset(path, config, revision=revision)
    except ConnectionError as error:
        remedy = "check the network and HF_HUB_OFFLINE, or give a local folder's path"
        raise AutopeftError(f"{which}: the hub can't be reached and no copy is cached; {remedy}") from error
    except Exception as error:  # errors of the hub, of HTTP, of file systems and of parsers share no other base
        reason = " ".join(str(error.__cause__ or error).split()) or type(error).__name__
        raise AutopeftError(f"{which}: cannot be loaded; check 'path' and 'config': {reason:.300}") from error
    return dict(parts)
