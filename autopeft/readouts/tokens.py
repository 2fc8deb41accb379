"""A label a word, such as named entities in BIO tags: cross entropy over the first tokens of words.

Shapes: K candidates, B examples in a batch, L tokens of the longest, T tokens of a split, C classes.
"""

from __future__ import annotations

import bisect
import itertools
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from autopeft.cells import label_cell, missing, plain, shown
from autopeft.errors import AutopeftError
from autopeft.readouts._base import IGNORED, Labelled, Measure, Reader, Readout
from autopeft.readouts._labels import ClassNumbers, label_key, sorted_names

if TYPE_CHECKING:
    import numpy as np
    import torch

_OUTSIDE, _BEGIN = "O", "-DOCSTART-"
_TAG = re.compile(r"[BIES]-.+")
#: For a space inside a word, which would be taken for one between words.
_HARD_SPACE = "\u00a0"

#: Tags of each sentence.
_Tags = list[list[str]]


def entities(tags: Sequence[str]) -> set[tuple[str, int, int]]:
    """(type, first, last) of each entity of a sentence, as the CoNLL-2000 evaluation script (conlleval) finds them.

    An entity begins at B or S, after E or S, and at any tag of another type than the one before; so `I-PER` after `O`
    begins one too.
    """
    found, first = set(), 0
    padded = [_OUTSIDE, *tags, _OUTSIDE]
    for i, (before, now) in enumerate(itertools.pairwise(padded)):
        (place, kind), (next_place, next_kind) = _parts(before), _parts(now)
        same = kind == next_kind and place not in "ES" and next_place not in "BS"
        if place != _OUTSIDE and not same:
            found.add((kind, first, i - 1))
        if next_place != _OUTSIDE and not same:
            first = i
    return found


def _parts(tag: str) -> tuple[str, str]:
    place, _, kind = tag.partition("-")
    return place, kind


def _counts(labels: _Tags, predictions: _Tags) -> tuple[int, int, int]:
    """Entities that are right in type and extent, that there are, and that were predicted."""
    pairs = [(entities(one), entities(other)) for one, other in zip(labels, predictions, strict=True)]
    return sum(len(a & b) for a, b in pairs), sum(len(a) for a, _ in pairs), sum(len(b) for _, b in pairs)


def _f1(labels: _Tags, predictions: _Tags) -> float:
    right, there, predicted = _counts(labels, predictions)
    return 2 * right / (there + predicted) if there + predicted else 0.0


def _precision(labels: _Tags, predictions: _Tags) -> float:
    right, _, predicted = _counts(labels, predictions)
    return right / predicted if predicted else 0.0


def _recall(labels: _Tags, predictions: _Tags) -> float:
    right, there, _ = _counts(labels, predictions)
    return right / there if there else 0.0


def _accuracy(labels: _Tags, predictions: _Tags) -> float:
    pairs = [(a, b) for one, other in zip(labels, predictions, strict=True) for a, b in zip(one, other, strict=True)]
    return sum(a == b for a, b in pairs) / len(pairs)


def conll_rows(
    lines: Iterable[str], file: str, text: Sequence[str], label: str
) -> Iterator[tuple[int, dict[str, Any]]]:
    """The sentences of a file of the CoNLL kind, each with the line of its first word.

    A line is a word, then any columns, then its label, with tabs or spaces between; empty lines and `-DOCSTART-` stand
    between sentences.
    """
    words: list[str] = []
    labels: list[str] = []
    first = columns = 0
    for number, line in enumerate(lines, 1):
        bare = line.removeprefix("\ufeff").rstrip("\r\n") if number == 1 else line.rstrip("\r\n")
        cells = [cell.strip() for cell in bare.split("\t")] if "\t" in bare.strip() else bare.split()
        if not cells or cells[0] == _BEGIN:
            if words:
                yield first, {text[0]: words, label: labels}
            words, labels = [], []
            continue
        columns = columns or len(cells)
        if len(cells) < 2 or len(cells) != columns or not cells[0] or not cells[-1]:
            expected = (
                f"{columns} columns, as on the first" if columns > 1 else "a word, a tab or a space, and its label"
            )
            raise AutopeftError(f"{file}:{number}: {shown(bare)} is no word with a label; write {expected}")
        first = first if words else number
        words.append(cells[0])
        labels.append(cells[-1])
    if words:
        yield first, {text[0]: words, label: labels}


@dataclass(frozen=True)
class Tokens(Readout):
    """A class a word, read at the word's first token.

    Words are kept as one text with a space between each two. Of BIO tags (or BIOES ones) every type has all tags.
    """

    name: ClassVar[str] = "tokens"
    description: ClassVar[str] = "a label a word, such as BIO tags of named entities"
    called: ClassVar[str] = "labels of words"
    auto_class: ClassVar[str] = "AutoModelForTokenClassification"
    peft_task: ClassVar[str | None] = "TOKEN_CLS"
    reads: ClassVar[Literal["one", "all"]] = "all"
    per_token: ClassVar[bool] = True
    columns: ClassVar[tuple[str | None, str]] = ("tokens", "labels")
    readers: ClassVar[Mapping[str, Reader]] = dict.fromkeys((".conll", ".bio", ".iob", ".iob2"), conll_rows)
    own_metrics = {
        "f1_entity": Measure(_f1),
        "precision_entity": Measure(_precision),
        "recall_entity": Measure(_recall),
        "accuracy": Measure(_accuracy),
    }

    @classmethod
    def row(cls, record: Mapping[str, Any], text: Sequence[str], label: str, where: str) -> tuple[list[str], Any]:
        """Words and labels are lists, or texts with white space between; as many of the one as of the other."""
        if len(text) != 1:
            raise AutopeftError(f"{where}: labels of words need texts in one column; name one in 'text'")
        for column in (*text, label):
            if column not in record:
                raise AutopeftError(f"{where}: {missing(column, label, record)}")
        words, labels = _cells(record[text[0]], text[0], where), _cells(record[label], label, where)
        if len(words) != len(labels):
            raise AutopeftError(f"{where}: {len(words)} words and {len(labels)} labels; give each word one")
        for number, word in enumerate(words, 1):
            if not isinstance(word, str) or not word.strip():
                raise AutopeftError(f"{where}: word {number} is {shown(word)}, and no text; mend the row")
        found = tuple(label_cell({label: one}, label, f"{where}, word {i}") for i, one in enumerate(labels, 1))
        return [" ".join(word.replace(" ", _HARD_SPACE) for word in words)], found

    @classmethod
    def of(cls, train: Labelled, names: tuple[str, ...] | None = None) -> Self:
        """The labels as the data declare them, else train's, with all tags of each type that is there."""
        if names is not None:
            return cls(names)
        found = sorted_names({label for row in train.labels for label in row})
        if not _are_tags(found):
            return cls(found)
        kinds = {_parts(tag)[1] for tag in found if tag != _OUTSIDE}
        places = "BIES" if any(tag[0] in "ES" for tag in found) else "BI"
        return cls(tuple(sorted([_OUTSIDE, *(f"{place}-{kind}" for place in places for kind in kinds)])))

    def encode(self, rows: Labelled, known: Collection[Any] | None, known_in: str) -> tuple[tuple[int, ...], ...]:
        """Of each row, the class number of each word."""
        numbers, found = ClassNumbers(self.labels, known, known_in), []
        by_label: dict[Any, int] = {}
        for index, (text, labels) in enumerate(zip(rows.first, rows.labels, strict=True)):
            for i, label in enumerate(labels):
                if label not in by_label:
                    word = shown(text.split(" ")[i])
                    by_label[label] = numbers.of(label_key(label), f"{rows.at(index)}, word {i + 1} ({word})")
            found.append(tuple(by_label[label] for label in labels))
        return tuple(found)

    def check(self, labels: Sequence[Any], place: str) -> None:
        """There must be two labels at least."""
        if len({label for row in labels for label in row}) < 2:
            raise AutopeftError(f"{place}: every word has the same label; add rows with others")

    def array(self, labels: Sequence[Any]) -> np.ndarray:
        """int64 [T]."""
        import numpy as np

        return np.asarray(labels, dtype=np.int64)

    def placed(self, text: str, label: Any, spans: Sequence[tuple[int, int]]) -> list[int]:
        """A word's label at the first token that has a character of it; `IGNORED` at all others."""
        starts = [0, *(at.end() for at in re.finditer(" ", text))]
        found, last = [], -1
        for start, end in spans:
            while start < end and text[start] == " ":
                start += 1
            word = bisect.bisect_right(starts, start) - 1
            new = start < end and word > last
            found.append(label[word] if new else IGNORED)
            last = word if new else last
        return found

    @property
    def default_metrics(self) -> tuple[str, ...]:
        """F1 of entities where the labels are tags, else accuracy."""
        return ("f1_entity",) if _are_tags(self.labels) else ("accuracy",)

    def complaint(self, metric: str) -> str:
        """Entities need tags."""
        if metric.endswith("_entity") and not _are_tags(self.labels):
            some = ", ".join(map(shown, self.labels[:3]))
            return f"'{metric}' needs BIO tags (O, B-PER, I-PER, ...), and labels are {some}, ...; take accuracy"
        return ""

    def loss(self, outputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Cross entropy, the mean over labelled tokens; 0 where there is none."""
        from torch.nn import functional

        outputs, labels = outputs.float().flatten(1, -2), labels.flatten()
        losses = functional.cross_entropy(
            outputs.transpose(1, 2), labels.expand(len(outputs), -1), reduction="none", ignore_index=IGNORED
        )
        return losses.sum(1) / (labels != IGNORED).sum().clamp(min=1)

    def predict(self, outputs: np.ndarray) -> np.ndarray:
        """Class numbers [T]."""
        classes: np.ndarray = outputs.argmax(axis=1)
        return classes

    def compared(self, labels: np.ndarray, predictions: np.ndarray, offsets: np.ndarray | None) -> tuple[_Tags, _Tags]:
        """The tags of each sentence's labelled words."""
        edges = [0, len(labels)] if offsets is None else offsets.tolist()
        there = labels != IGNORED
        one, other = (
            [[self.labels[i] for i in values[a:b][there[a:b]].tolist()] for a, b in itertools.pairwise(edges)]
            for values in (labels, predictions)
        )
        return one, other


def _are_tags(names: Sequence[str]) -> bool:
    return any(name != _OUTSIDE for name in names) and all(name == _OUTSIDE or _TAG.fullmatch(name) for name in names)


def _cells(value: Any, column: str, where: str) -> list[Any]:
    """The items of a cell; `AutopeftError`, starting with `where`, for one that holds none."""
    value = plain(value)
    found = value.split() if isinstance(value, str) else list(value) if isinstance(value, (list, tuple)) else []
    if not found:
        raise AutopeftError(
            f"{where}: column '{column}' holds no list but {shown(value)}; give a list of words or labels"
        )
    return found
