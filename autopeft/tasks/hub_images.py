"""Image sets of the Hugging Face hub, or local folders that `datasets` can load."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from autopeft.cells import label_cell
from autopeft.doors import door
from autopeft.tasks._hub_sets import HubSet, class_name, class_names
from autopeft.tasks._pictures import picture_of
from autopeft.tasks._rows import Raw, Rows, columns_of
from autopeft.tasks.images import READOUT, ImageTask, Labelled, rows_of


class HubImages(HubSet, ImageTask):
    """A set of images by `path` (its hub name or a local folder), `config` and `revision`; its code is never run.

    `image` and `label` are its columns, `train`, `validation` and `test` names of splits; the last two may be None, or
    absent under their default names. Rows without a label (-1 or null) are left out.
    """

    name: ClassVar[str] = "hub_images"
    description: ClassVar[str] = "images of the Hugging Face hub, or of a local folder of one of its sets"
    variant_field: ClassVar[str] = "path"

    def _read(self) -> Raw:
        parts = self._parts()
        splits = {name: self._optional(parts, name) for name in ("train", "validation", "test")}
        train = splits["train"]
        assert train is not None, "a split that is not there was refused"
        part = parts[self.train]
        declared = class_names(part, self._columns(part, self.path)[1])
        return Raw(train, splits["validation"], splits["test"], declared, READOUT)

    def _optional(self, parts: Mapping[str, Any], name: str) -> Rows | None:
        found = self._part(parts, name)
        if found is None:
            return None
        part, place = found
        return rows_of(self._labelled_of(part, place), place, ", row ")

    def _columns(self, part: Any, place: str) -> tuple[str, str]:
        names = [str(name) for name in part.column_names]
        image, label = (names[i] for i in columns_of(names, [self.image], self.label, place))
        return image, label

    def _labelled_of(self, part: Any, place: str) -> Labelled:
        image, label = self._columns(part, place)
        classes = class_names(part, label)
        with door(place, f"column '{image}' cannot be read as images"):
            from datasets import Image

            part = part.cast_column(image, Image(decode=False))
            labels = list(part[label][:])
        for row, value in enumerate(labels):
            where = f"{place}, row {row + 1}"
            known = class_name(classes, value, where) if classes else value
            if known is not None:
                yield row + 1, _Cell(part, image, row, where), label_cell({label: known}, label, where)


@dataclass(frozen=True)
class _Cell:
    """An image of a data set."""

    part: Any
    column: str
    row: int
    where: str
    name: str = ""

    def read(self) -> bytes:
        with door(self.where):
            value = self.part[self.row][self.column]
        return picture_of(value, Path(), self.where, self.column).read()
