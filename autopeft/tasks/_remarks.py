"""What is no mistake but should be known before scores are believed: a sentence each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from autopeft.cells import broken, shown
from autopeft.tasks._data import Split
from autopeft.tasks._rows import Raw
from autopeft.wording import counted

#: A class is rare of which train has fewer rows than this, or than this part of an even share; how many are named; and
#: the rows that there must be for each class before it is said.
_FEW, _RARE, _LISTED, _EACH = 5, 0.1, 3, 20


def of_rows(raw: Raw) -> tuple[str, ...]:
    """On how texts were read, and labels that are texts."""
    said = []
    for split, rows in raw.splits().items():
        texts = [*rows.first, *(rows.second or ())]
        if count := sum(map(broken, texts)):
            said.append(
                f"{counted(count, 'text')} of {split} with half a character (a lone surrogate): U+FFFD stands for it"
            )
        if count := sum(isinstance(label, str) and broken(label) for label in rows.labels):
            said.append(
                f"{counted(count, 'label')} of {split} with half a character (a lone surrogate): U+FFFD stands for it"
            )
        if count := sum(isinstance(label, str) and label != label.strip() for label in rows.labels):
            said.append(f"{counted(count, 'label')} of {split} with white space around: it is left out")
    return tuple(said)


def of_parts(train: Split, validation: Split, test: Split, names: Sequence[str], what: str = "text") -> tuple[str, ...]:
    """On the splits as they are used: empty texts, texts in two splits, and texts of train with several labels.

    `what`: the word for them.
    """
    parts = {"train": train, "validation": validation, "test": test}
    keys = {name: _keys(split) for name, split in parts.items()}
    said = [f"{counted(count, 'empty text')} in {name}" for name, split in parts.items() if (count := _empty(split))]
    if names and (clashes := _clashes(keys["train"], train.labels)):
        texts, rows = clashes
        said.append(
            f"{counted(texts, what)} of train with different labels (in {rows:,} rows): some of these must be wrong"
        )
    said += _rare(parts, names)
    sets = {name: set(found) for name, found in keys.items()}
    for later, earlier in (("validation", "train"), ("test", "train"), ("test", "validation")):
        total = len(keys[later])
        if count := sum(key in sets[earlier] for key in keys[later]):
            share = f"{count:,} of {later}'s {total:,} rows ({100 * count / total:.1f}%)"
            said.append(
                f"{share} {'is' if count == 1 else 'are'} in {earlier} too (the same {what}): scores on {later} flatter"
            )
    return tuple(said)


def _rare(parts: Mapping[str, Split], names: Sequence[str]) -> list[str]:
    """On classes of which train has few rows beside the others, and those that a split has none of."""
    labels = parts["train"].labels
    if len(names) < 2 or len(labels) < _EACH * len(names) or not all(isinstance(label, int) for label in labels):
        return []
    counts, even = Counter(labels), len(labels) / len(names)
    rare = [i for i in range(len(names)) if counts[i] < max(_FEW, _RARE * even)]
    said = []
    if rare:
        listed = ", ".join(f"{shown(names[i])} {counts[i]:,}" for i in rare[:_LISTED])
        more = f" and {len(rare) - _LISTED:,} more" if len(rare) > _LISTED else ""
        what = "1 class is rare" if len(rare) == 1 else f"{len(rare):,} classes are rare"
        said.append(
            f"{what} in train (rows: {listed}{more}; an even share would be {even:,.0f}): accuracy hardly shows "
            "how well they are learned; f1_macro does"
        )
    for split in ("validation", "test"):
        there = set(parts[split].labels)
        missing = [shown(name) for i, name in enumerate(names) if i not in there]
        if missing and len(parts[split]):
            more = f" and {len(missing) - _LISTED:,} more" if len(missing) > _LISTED else ""
            said.append(
                f"{split} has no row of {', '.join(missing[:_LISTED])}{more}: no score there says anything of them"
            )
    return said


def _keys(split: Split) -> list[int]:
    """A hash of each row's text (or pair), in which white space makes no difference."""
    first = (" ".join(text.split()) for text in split.first)
    if split.second is None:
        return [hash(text) for text in first]
    second = (" ".join(text.split()) for text in split.second)
    return [hash(pair) for pair in zip(first, second, strict=True)]


def _empty(split: Split) -> int:
    return sum(not text or text.isspace() for texts in (split.first, split.second or ()) for text in texts)


def _clashes(keys: Sequence[int], labels: Sequence[Any]) -> tuple[int, int] | None:
    """How many texts have several labels, and how many rows these texts; None where there are none."""
    first: dict[int, Any] = {}
    clashing = {key for key, label in zip(keys, labels, strict=True) if first.setdefault(key, label) != label}
    return (len(clashing), sum(key in clashing for key in keys)) if clashing else None
