"""Data sets of the Hugging Face hub, or local folders that `datasets` can load."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from autopeft.doors import door
from autopeft.errors import AutopeftError
from autopeft.readouts import READOUTS
from autopeft.tasks._formatted import Formatted
from autopeft.tasks._hub_sets import HubSet, class_name, class_names
from autopeft.tasks._rows import Raw, Rows, collect, columns_of


class Hub(HubSet, Formatted):
    """A data set by `path` (its hub name or a local folder), `config` and `revision`; its code is never run.

    `text`: one column's name, or two for pairs. `train`, `validation`, `test`: names of splits; the last two may be
    None, or absent under their default names. A split without labels (all of them -1 or null, as in GLUE's hidden
    tests) counts as absent; single rows without one (-1 in a column of classes) are left out, and the note says so.
    `readout`, `regression`: None infers it from the labels. A folder that `save_to_disk` wrote is read too.
    Without `text` the rows are of one of the formats, as in the task `files`.
    """

    name: ClassVar[str] = "hub"
    description: ClassVar[str] = "a data set of the Hugging Face hub, or a local folder of one"
    variant_field: ClassVar[str] = "path"

    def _read(self) -> Raw:
        parts = self._parts()
        left_out: list[str] = []
        train = self._rows(parts, "train", left_out)
        if train is None:
            raise AutopeftError(f"{self.path}, split {self.train}: no row has a label; name another split in 'train'")
        validation = self._rows(parts, "validation", left_out)
        test = self._rows(parts, "test", left_out)
        if self.written:
            return Raw(train, validation, test, **self._written_as())
        declared = self._declared(parts[self.train])
        asked = None if self.regression is None else "regression" if self.regression else "classification"
        return Raw(train, validation, test, declared, asked, note=", ".join(left_out))

    def _declared(self, part: Any) -> tuple[str, ...] | None:
        return class_names(part, part.column_names[columns_of(part.column_names, [], self.label, self.path)[0]])

    def _rows(self, parts: Mapping[str, Any], field: str, left_out: list[str]) -> Rows | None:
        """The labelled rows of a split, or None when there is no labelled one; what is left out is noted."""
        found_part = self._part(parts, field)
        if found_part is None:
            return None
        part, place = found_part
        if self.written:
            return self._written_rows(part, place)
        texts = self.labelled[0]
        found = columns_of(part.column_names, texts, self.label, place)
        names = dict(zip((*texts, self.label), (part.column_names[i] for i in found), strict=True))
        cells = {column: _cells(part, name, place) for column, name in names.items()}
        labels = cells[self.label]
        if labels and all(label is None or label == -1 for label in labels):
            return None
        keep = list(range(len(labels)))
        if classes := class_names(part, names[self.label]):
            keep = [i for i, label in enumerate(labels) if label is not None and label != -1]
            cells[self.label] = [class_name(classes, label, f"{place}, row {i}") for i, label in enumerate(labels, 1)]
        if len(keep) < len(labels):
            left_out.append(f"{len(labels) - len(keep)} rows of {getattr(self, field)} have no label and are left out")
        records = ((i + 1, {column: values[i] for column, values in cells.items()}) for i in keep)
        kind = READOUTS.get(self.readout) if self.readout else None
        return collect(records, texts, self.label, place, kind=kind)

    def _written_rows(self, part: Any, place: str) -> Rows:
        names = [str(name) for name in part.column_names]
        detected = self._detected(names, place)
        cells = {column: _cells(part, column, place) for column in self._needed(detected, names, place)}
        records = (dict(zip(cells, values, strict=True)) for values in zip(*cells.values(), strict=True))
        return self._conversations(enumerate(records, 1), detected, place)


def _cells(part: Any, column: str, place: str) -> list[Any]:
    """A column's values; decoding them may fail as only its library knows."""
    with door(place, f"column '{column}' cannot be read"):
        return list(part[column][:])
