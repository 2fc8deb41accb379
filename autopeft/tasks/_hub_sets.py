"""What tasks of the hub's data sets share: how a set is loaded, its splits, and the classes that it declares."""

from __future__ import annotations

import errno
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from autopeft.config import Strict
from autopeft.doors import door, reason
from autopeft.errors import AutopeftError, suggest
from autopeft.hub import hub_answers

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


class HubSet(Strict):
    """The fields of a data set of the hub, or of a local folder that `datasets` can load; its code is never run."""

    path: str
    config: str | None = None
    revision: str | None = None
    train: str = "train"
    validation: str | None = "validation"
    test: str | None = "test"

    def _parts(self) -> Mapping[str, Any]:
        """The splits of the set by name; `AutopeftError` when there are none to be had."""
        return _load(self.path, self.config, self.revision)

    def _part(self, parts: Mapping[str, Any], field: str) -> tuple[Any, str] | None:
        """The split that a field names, and its place in words; None for a default name that the set does not have."""
        split = getattr(self, field)
        # A default name was not asked for, so a set without such a split is fine.
        if split is None or (split == field != "train" and split not in parts):
            return None
        if split not in parts:
            raise AutopeftError(f"{self.path}: no split '{split}'; {suggest(split, map(str, parts))}")
        return parts[split], f"{self.path}, split {split}"


def class_names(part: Any, column: str) -> tuple[str, ...] | None:
    """The classes that a column declares, if it does."""
    from datasets import ClassLabel

    feature = part.features.get(column)
    feature = getattr(feature, "feature", feature)  # of lists
    return tuple(feature.names) if isinstance(feature, ClassLabel) else None


def class_name(names: Sequence[str], label: Any, where: str) -> Any:
    """The name of a class number (or of each in a list); None for what counts as no label."""
    if isinstance(label, list):
        return [class_name(names, one, where) for one in label]
    if label is None or label == -1:
        return None
    if not 0 <= label < len(names):
        raise AutopeftError(f"{where}: class {label} is none of the {len(names)} that the set declares; mend the row")
    return names[label]


def _load(path: str, config: str | None, revision: str | None) -> Mapping[str, Any]:
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
