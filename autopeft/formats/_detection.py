"""Which format the columns of a file are of."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from autopeft.cells import plain
from autopeft.errors import AutopeftError, suggest
from autopeft.formats._base import Format, Options
from autopeft.formats._conversation import Conversation
from autopeft.formats._guessing import guessed, not_learned
from autopeft.formats._registry import FORMATS

#: Columns of data that cannot be trained on here, and what they are.
_PREFERENCE = ("chosen", "rejected")
_PICTURES = ("image", "images", "video", "videos", "audio", "audios")
_TOOLS = ("tools", "functions")
_LABELS = ("label", "labels")
_AUTO = "auto"

#: A column, and the keys inside its objects.
_Path = tuple[str, ...]


@dataclass(frozen=True)
class Detected:
    """A format, and where each of its columns is found: (its own name, a column and the keys inside it) pairs.

    `refused`: columns that a row must leave empty.
    """

    format: type[Format]
    sources: tuple[tuple[str, _Path], ...]
    refused: tuple[str, ...] = ()

    @property
    def needed(self) -> list[str]:
        """The columns of the file that are read."""
        return list(dict.fromkeys([*(path[0] for _, path in self.sources), *self.refused]))

    def conversation(self, record: Mapping[str, Any], options: Options, where: str) -> Conversation:
        """That of a record; `AutopeftError`, starting with `where`, for what is wrong in it."""
        for column in self.refused:
            if plain(record.get(column)) not in (None, "", "[]", [], {}):
                raise AutopeftError(
                    f"{where}: column '{column}' is not empty, and calls of tools cannot be trained; remove the row, "
                    "or take the column out"
                )
        for own, path in self.sources:
            if own in self.format.columns and path[0] not in record:
                raise AutopeftError(f"{where}: no column '{path[0]}'; {suggest(path[0], map(str, record))}")
        row = {own: _found(record, path) for own, path in self.sources}
        return self.format.conversation(row, options, where)


def detect(
    names: Sequence[str], asked: str | None, renamed: Mapping[str, str] | None, where: str, sure: bool = False
) -> Detected:
    """The format of a file with columns of these `names`, or the `asked` one; `sure`: no labelled texts are meant.

    `renamed`: their names (or paths, `a.b` for the key b of objects in a) to a format's. `AutopeftError`, starting with
    `where`, lists the candidates where there are several, and the columns where there is none.
    """
    known = _known(names, renamed or {}, where)
    if asked not in (None, _AUTO):
        return _as_asked(FORMATS.get(str(asked)), known, names, where)
    _check_preference(known, where)
    _check_pictures(known, where)
    fitting = {name: sources for name, kind in FORMATS.all().items() if (sources := _sources(kind, known)) is not None}
    if len(fitting) > 1:
        raise AutopeftError(
            f"{where}: the columns {_listed(known)} fit several formats; choose with 'format': {_described(fitting)}"
        )
    if not fitting:
        raise AutopeftError(f"{where}: the columns {_listed(names)} {_unknown(names)}")
    [(name, sources)] = fitting.items()
    if not sure:
        _check_labels(name, known, where)
    return Detected(FORMATS.get(name), sources, tuple(c for c in _TOOLS if c in known))


def _known(names: Sequence[str], renamed: Mapping[str, str], where: str) -> dict[str, _Path]:
    """Where each column is found, by the name that it goes by."""
    found: dict[str, _Path] = {name: (name,) for name in names if name not in renamed}
    for source, own in renamed.items():
        path = (source,) if source in names else tuple(source.split("."))
        if path[0] not in names:
            raise AutopeftError(f"{where}: columns: no column '{path[0]}'; {suggest(path[0], names)}")
        if list(renamed.values()).count(own) > 1:
            raise AutopeftError(f"{where}: columns: several are to be '{own}'; rename one only")
        found[own] = path
    return found


def _as_asked(kind: type[Format], known: Mapping[str, _Path], names: Sequence[str], where: str) -> Detected:
    sources = _sources(kind, known)
    if sources is None:
        lacking = [own for own, others in kind.columns.items() if not any(name in known for name in others)]
        raise AutopeftError(
            f"{where}: no column '{lacking[0]}', as the format '{kind.name}' has it; rename one with "
            f"'columns: {{theirs: {lacking[0]}}}'; {suggest(lacking[0], names)}"
        )
    return Detected(kind, sources, tuple(column for column in _TOOLS if column in known))


def _sources(kind: type[Format], known: Mapping[str, _Path]) -> tuple[tuple[str, _Path], ...] | None:
    """Where a format's columns are, or None where one is not there; the first of a column's names that is there."""
    found: list[tuple[str, _Path]] = []
    for own, others in {**kind.columns, **kind.more}.items():
        place = next((known[name] for name in others if name in known), None)
        if place is not None:
            found.append((own, place))
        elif own in kind.columns:
            return None
    return tuple(found)


def _check_preference(known: Mapping[str, _Path], where: str) -> None:
    there = [column for column in _PREFERENCE if column in known]
    if there:
        ours, named = ("completion", "prompt_completion") if "prompt" in known else ("messages", "messages")
        raise AutopeftError(
            f"{where}: column '{there[0]}' is of preference data (pairs of a better and a worse answer, as DPO has "
            f"them), which is not trained here; to learn the better answers write columns: {{chosen: {ours}}} and "
            f"format: {named}"
        )
    if {"prompt", "completion", "label"} <= known.keys():
        raise AutopeftError(
            f"{where}: columns 'prompt', 'completion' and 'label' are of preference data (good and bad answers); to "
            "learn all of them write format: prompt_completion"
        )


def _check_pictures(known: Mapping[str, _Path], where: str) -> None:
    if there := [column for column in _PICTURES if column in known]:
        label = _label(known)
        images = f"; to classify images take the task images (image: {there[0]}, label: {label})" if label else ""
        raise AutopeftError(
            f"{where}: column '{there[0]}' holds pictures or sounds, and texts only can be trained; to leave it out "
            f"name the 'format' of the others{images}"
        )


def _label(known: Iterable[str]) -> str:
    """The column of labels, if there is one."""
    return next((column for column in known if column.strip().lower() in _LABELS), "")


def _check_labels(name: str, known: Mapping[str, _Path], where: str) -> None:
    """A text beside a label is more often a text to classify."""
    if (label := _label(known)) and name == "text":
        raise AutopeftError(
            f"{where}: columns 'text' and '{label}': to classify the texts write text: text"
            f"{'' if label == 'label' else f' and label: {label}'} (readout: multi_label, where labels are lists); to "
            "train a language model on them, format: text"
        )


def _unknown(names: Sequence[str]) -> str:
    """What to say of columns that are of no format."""
    if said := not_learned(names):
        return said
    if meant := guessed(names):
        return f"are of no known format ('autopeft list formats'); did you mean {meant}?"
    return (
        "are of no known format; rename some with 'columns: {theirs: ours}' to those of one "
        f"({_described(FORMATS.all())}), or name a column of labelled texts in 'text'"
    )


def _found(record: Mapping[str, Any], path: _Path) -> Any:
    """The value in a column, or at keys inside it; None where they lead nowhere."""
    value: Any = record
    for key in path:
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


def _described(names: Iterable[str]) -> str:
    return ", ".join(f"{name} ({', '.join(FORMATS.get(name).columns)})" for name in names)


def _listed(names: Iterable[str]) -> str:
    shown = [f"'{name}'" for name in names]
    return ", ".join(shown[:12]) + (", ..." if len(shown) > 12 else "")
