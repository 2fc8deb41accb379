"""Data sets of the Hugging Face hub, or local folders that `datasets` can load."""

from __future__ import annotations

import errno
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from autopeft.doors import door, reason
from autopeft.errors import AutopeftError, suggest
from autopeft.hub import hub_answers
from autopeft.readouts import READOUTS
from autopeft.tasks._formatted import Formatted
from autopeft.tasks._rows import Raw, Rows, collect, columns_of

_UNWRITABLE = {
    errno.EACCES,
    errno.EPERM,
    errno.EROFS,
    errno.ENOSPC,
    errno.EDQUOT,
    errno.ENOENT,
    errno.ENOTDIR,
    errno.EEXIST,
}


class Hub(Formatted):
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

    path: str
    config: str | None = None
    revision: str | None = None
    train: str = "train"
    validation: str | None = "validation"
    test: str | None = "test"

    def _read(self) -> Raw:
        parts = _load(self.path, self.config, self.revision)
        left_out: list[str] = []
        train = self._rows(parts, self.train, left_out)
        if train is None:
            raise AutopeftError(f"{self.path}, split {self.train}: no row has a label; name another split in 'train'")
        validation = self._optional(parts, "validation", left_out)
        test = self._optional(parts, "test", left_out)
        if self.written:
            return Raw(train, validation, test, **self._written_as())
        declared = self._declared(parts[self.train])
        asked = None if self.regression is None else "regression" if self.regression else "classification"
        return Raw(train, validation, test, declared, asked, note=", ".join(left_out))

    def _declared(self, part: Any) -> tuple[str, ...] | None:
        return _class_names(part, part.column_names[columns_of(part.column_names, [], self.label, self.path)[0]])

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
        if classes := _class_names(part, names[self.label]):
            keep = [i for i, label in enumerate(labels) if label is not None and label != -1]
            cells[self.label] = [_class_name(classes, label, f"{place}, row {i}") for i, label in enumerate(labels, 1)]
        if len(keep) < len(labels):
            left_out.append(f"{len(labels) - len(keep)} rows of {split} have no label and are left out")
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


def _class_names(part: Any, column: str) -> tuple[str, ...] | None:
    from datasets import ClassLabel

    feature = part.features.get(column)
    feature = getattr(feature, "feature", feature)  # of lists
    return tuple(feature.names) if isinstance(feature, ClassLabel) else None


def _class_name(names: Sequence[str], label: Any, where: str) -> Any:
    """The name of a class number (or of each in a list); None for what counts as no label."""
    if isinstance(label, list):
        return [_class_name(names, one, where) for one in label]
    if label is None or label == -1:
        return None
    if not 0 <= label < len(names):
        raise AutopeftError(f"{where}: class {label} is none of the {len(names)} that the set declares; mend the row")
    return names[label]


def _load(path: str, config: str | None, revision: str | None) -> Mapping[str, Any]:
    """The splits of a data set by name; `AutopeftError` when there are none to be had."""
    which = f"data set '{path}'" + (f", configuration '{config}'" if config else "")
    with door(which, "cannot be loaded"):
        import datasets

        local = Path(path).exists()
    if not local and not hub_answers():
        # Asked for the cached copy only, it answers at once; else it would go on asking for half a minute.
        datasets.config.HF_HUB_OFFLINE = True
    level = datasets.logging.get_verbosity()
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)  # what fails is said once, below
    try:
        if local and _is_saved(Path(path)):
            saved = datasets.load_from_disk(path)
            return dict(saved) if isinstance(saved, dict) else {"train": saved}
        return dict(datasets.load_dataset(path, config, revision=revision))
    except ConnectionError as error:
        remedy = "check the network and HF_HUB_OFFLINE, or give a local folder's path"
        raise AutopeftError(f"{which}: the hub can't be reached and no copy is cached; {remedy}") from error
    except Exception as error:  # errors of the hub, of HTTP, of file systems and of parsers share no other base
        cause = error.__cause__ or error
        if isinstance(cause, OSError) and cause.errno in _UNWRITABLE:
            remedy = f"its copy goes to {datasets.config.HF_DATASETS_CACHE}; set HF_HOME to a folder with room"
            raise AutopeftError(f"{which}: cannot be kept ({reason(cause)}): {remedy}") from error
        why = " ".join(str(cause).split()) or type(cause).__name__
        hint = ", or read its files with the task 'files', which names the row" if local else ""
        raise AutopeftError(f"{which}: cannot be loaded; check 'path' and 'config'{hint}: {why:.300}") from error
    finally:
        datasets.logging.set_verbosity(level)


def _is_saved(folder: Path) -> bool:
    """Whether `save_to_disk` wrote it: arrow files with a state, of one split or of several."""
    return any((folder / name).is_file() for name in ("dataset_dict.json", "state.json"))
