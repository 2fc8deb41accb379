"""Your own images: folders named after classes, or files with paths or bytes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Self

from pydantic import field_validator, model_validator

from autopeft.cells import label_cell
from autopeft.doors import door
from autopeft.errors import AutopeftError
from autopeft.tasks._base import Task
from autopeft.tasks._json import json_file, json_lines
from autopeft.tasks._pictures import InFile, Picture, digest, picture_of
from autopeft.tasks._rows import Raw, Rows, columns_of
from autopeft.tasks._tables import csv_rows, tsv_rows

READOUT = "image_classification"
#: What split folders are called.
_SPLITS = {"train": ("train", "training"), "validation": ("validation", "valid", "val", "dev"), "test": ("test",)}
_SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm"}
#: (Place in the file, picture, label) of each row.
Labelled = Iterator[tuple[int, Picture, Any]]


class ImageTask(Task):
    """Base of tasks that read images with a class each."""

    image: str = "image"
    label: str = "label"

    @field_validator("readout")
    @classmethod
    def _of_images(cls, value: str | None) -> str | None:
        if value not in (None, READOUT):
            raise ValueError(f"'{value}' is for texts; leave it out, as images are read for '{READOUT}'")
        return value


class Images(ImageTask):
    """Images with a class each, in folders or in files.

    `path`: a folder that holds `train/<class>/...`, and `validation/` (or `val/`) and `test/` like it, or the classes'
    folders themselves. Or `train`, `validation` and `test`: each a folder of classes' folders, or a .jsonl, .json,
    .csv, .tsv or .parquet file with the columns `image` and `label`. In the column are paths (from the file's folder),
    bytes, or `{bytes, path}`. Relative paths start at the current directory.
    """

    name: ClassVar[str] = "images"
    description: ClassVar[str] = "your own images: folders named after classes, or files with paths or bytes"

    path: str | None = None
    train: str | None = None
    validation: str | None = None
    test: str | None = None

    @model_validator(mode="after")
    def _one_place(self) -> Self:
        if (self.path is None) == (self.train is None):
            raise ValueError("give either 'path', a folder with all splits, or 'train'")
        if self.path is not None and (self.validation or self.test):
            raise ValueError(
                "'path' names the folder of all splits; leave 'validation' and 'test' out, or give 'train'"
            )
        return self

    def _read(self) -> Raw:
        places = self._places()
        rows = {split: self._rows(place) for split, place in places.items()}
        return Raw(rows["train"], rows.get("validation"), rows.get("test"), readout=READOUT)

    def _places(self) -> dict[str, Path]:
        if self.path is None:
            given = {"train": self.train, "validation": self.validation, "test": self.test}
            return {split: Path(place) for split, place in given.items() if place is not None}
        folder = Path(self.path)
        with door(folder):
            if not folder.is_dir():
                raise AutopeftError(f"{folder}: no such folder; relative paths start at {Path.cwd()}")
            found = {
                split: folder / name for split, names in _SPLITS.items() for name in names if (folder / name).is_dir()
            }
        return found if "train" in found else {"train": folder}

    def _rows(self, place: Path) -> Rows:
        with door(place):
            is_folder, is_file = place.is_dir(), place.is_file()
        if is_folder:
            return rows_of(_in_folders(place), str(place), ", image ")
        if not is_file:
            raise AutopeftError(f"{place}: no such file or folder; relative paths start at {Path.cwd()}")
        suffix = place.suffix.lower()
        if suffix == ".parquet":
            return rows_of(_in_parquet(place, self.image, self.label), str(place), ", row ")
        if suffix not in _READERS:
            known = ", ".join([*_READERS, ".parquet"])
            raise AutopeftError(f"{place}: of no known format; give a folder, or a file of one of {known}")
        return rows_of(_in_rows(place, self.image, self.label), str(place), ":")


def rows_of(found: Iterable[tuple[int, Picture, Any]], place: str, mark: str) -> Rows:
    """The rows of pictures with labels, which are read once; `AutopeftError` where there are none."""
    numbers, pictures, labels, digests = [], [], [], []
    for number, picture, label in found:
        digests.append(digest(picture.read()))
        numbers.append(number)
        pictures.append(picture)
        labels.append(label)
    if not pictures:
        raise AutopeftError(f"{place}: no images; a split needs at least one")
    return Rows(place, digests, None, labels, numbers, mark, pictures=pictures)


def _in_folders(folder: Path) -> Labelled:
    with door(folder):
        classes = sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    if not classes:
        raise AutopeftError(f"{folder}: no folders in it; images stand in folders that are named after their classes")
    number = 0
    for own in classes:
        with door(own):
            files = sorted(path for path in own.rglob("*") if path.suffix.lower() in _SUFFIXES and path.is_file())
        if not files:
            raise AutopeftError(f"{own}: no images in it ({', '.join(sorted(_SUFFIXES))}); add some, or remove it")
        for path in files:
            number += 1
            yield number, InFile(path), own.name


_Reader = Callable[[Path, Sequence[str], str], Iterator[tuple[int, dict[str, Any]]]]
_READERS: dict[str, _Reader] = {".jsonl": json_lines, ".json": json_file, ".csv": csv_rows, ".tsv": tsv_rows}


def _in_rows(path: Path, image: str, label: str) -> Labelled:
    for number, record in _READERS[path.suffix.lower()](path, [image], label):
        where = f"{path}:{number}"
        if image not in record:
            columns_of([str(name) for name in record], [image], "", where)
        yield number, picture_of(record[image], path.parent, where, image), label_cell(record, label, where)


@dataclass(eq=False)
class _Column:
    """A column of images in a parquet file, one group of rows in memory at a time."""

    path: Path
    name: str
    _group: int = -1
    _values: list[Any] = field(default_factory=list)

    def __post_init__(self) -> None:
        from pyarrow import parquet

        self.file = parquet.ParquetFile(self.path)
        meta = self.file.metadata
        self._sizes = [meta.row_group(group).num_rows for group in range(meta.num_row_groups)]

    def value(self, row: int) -> Any:
        """The cell of a row, counted from 0."""
        group = 0
        while row >= self._sizes[group]:
            row -= self._sizes[group]
            group += 1
        if group != self._group:
            table = self.file.read_row_group(group, columns=[self.name])
            self._group, self._values = group, table.column(0).to_pylist()
        return self._values[row]


@dataclass(frozen=True)
class _Cell:
    """An image in a cell of such a column."""

    column: _Column
    row: int
    name: str = ""

    def read(self) -> bytes:
        where = f"{self.column.path}, row {self.row + 1}"
        with door(where):
            value = self.column.value(self.row)
        return picture_of(value, self.column.path.parent, where, self.column.name).read()


def _in_parquet(path: Path, image: str, label: str) -> Labelled:
    with door(path, "no readable parquet"):
        column = _Column(path, image)
        names = [str(name) for name in column.file.schema_arrow.names]
    column.name, own = (names[i] for i in columns_of(names, [image], label, str(path)))
    with door(path, "no readable parquet"):
        labels = column.file.read(columns=[own]).column(0).to_pylist()
    for row, value in enumerate(labels):
        yield row + 1, _Cell(column, row), label_cell({label: value}, label, f"{path}, row {row + 1}")
