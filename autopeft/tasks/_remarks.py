"""What is no mistake but should be known before scores are believed: a sentence each."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence

from autopeft.tasks._data import Split
from autopeft.tasks._labels import MISSING, label_key, spellings
from autopeft.tasks._rows import Raw, broken, shown

_COMMA = re.compile(r"[+-]?\d+(,\d+)?")
_NAMED = 3  # examples in a sentence


def of_rows(raw: Raw, names: Sequence[str]) -> tuple[str, ...]:
    """On how texts and labels were read; `names` are the classes, none for regression."""
    said = []
    for split, rows in raw.splits().items():
        texts = [*rows.first, *(rows.second or ())]
        if count := sum(map(broken, texts)):
            said.append(
                f"{_n(count, 'text')} of {split} with half a character (a lone surrogate): U+FFFD stands for it"
            )
        if count := sum(isinstance(label, str) and broken(label) for label in rows.labels):
            said.append(
                f"{_n(count, 'label')} of {split} with half a character (a lone surrogate): U+FFFD stands for it"
            )
        if count := sum(isinstance(label, str) and label != label.strip() for label in rows.labels):
            said.append(f"{_n(count, 'label')} of {split} with white space around: it is left out")
    if not names and len(values := set(raw.train.labels)) == 1:
        said.append(f"every label of train is {shown(values.pop())}: there is nothing to learn")
    return (*said, *(_of_classes(raw, names) if names else ()))


def _of_classes(raw: Raw, names: Sequence[str]) -> Iterable[str]:
    if raw.label_names is None:
        for name, keys in spellings(raw.train.labels).items():
            if len(keys) > 1:
                yield f"labels {_listed(keys)} are read as one class, {shown(name)}"
        missing = {name for name in names if name.lower() in MISSING}
        counts = Counter(key for label in raw.train.labels if (key := label_key(label)) in missing)
        for name, count in counts.items():
            yield f"label {shown(name)} ({_n(count, 'row')} of train) is read as a class, not as a missing label"
    alike: dict[str, list[str]] = {}
    for name in names:
        alike.setdefault(_look(name), []).append(name)
    groups = [group for group in alike.values() if len(group) > 1]
    for group in groups[:_NAMED]:
        yield f"labels {_listed(group)} look alike, and are {len(group)} classes"
    if any("," in name for name in names) and all(map(_COMMA.fullmatch, names)):
        yield f"labels such as {_listed(names)} are read as classes: numbers need a decimal point"
    if len(names) > 10 and 2 * len(names) > len(raw.train.labels):
        rows = len(raw.train.labels)
        yield f"train has {len(names):,} labels in {rows:,} rows: is the label's column the right one?"


def _look(name: str) -> str:
    look = " ".join(unicodedata.normalize("NFKC", name).casefold().split())
    return {"true": "1", "false": "0"}.get(look, look)


def _n(count: int, what: str) -> str:
    return f"{count:,} {what}" + ("" if count == 1 else "s")


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMED:,} more" if len(names) > _NAMED else ""
    return ", ".join(map(shown, names[:_NAMED])) + more


def of_parts(train: Split, validation: Split, test: Split, names: Sequence[str]) -> tuple[str, ...]:
    """On the splits as they are used: empty texts, texts in two splits, and texts of train with several labels."""
    parts = {"train": train, "validation": validation, "test": test}
    keys = {name: _keys(split) for name, split in parts.items()}
    said = [f"{_n(count, 'empty text')} in {name}" for name, split in parts.items() if (count := _empty(split))]
    if names and (clashes := _clashes(keys["train"], train.labels)):
        texts, rows = clashes
        said.append(
            f"{_n(texts, 'text')} of train with different labels (in {rows:,} rows): some of these must be wrong"
        )
    sets = {name: set(found) for name, found in keys.items()}
    for later, earlier in (("validation", "train"), ("test", "train"), ("test", "validation")):
        total = len(keys[later])
        if count := sum(key in sets[earlier] for key in keys[later]):
            share = f"{count:,} of {later}'s {total:,} rows ({100 * count / total:.1f}%)"
            said.append(
                f"{share} {'is' if count == 1 else 'are'} in {earlier} too (the same text): scores on {later} flatter"
            )
    return tuple(said)


def _keys(split: Split) -> list[int]:
    """A hash of each row's text (or pair), in which white space makes no difference."""
    first = (" ".join(text.split()) for text in split.first)
    if split.second is None:
        return [hash(text) for text in first]
    second = (" ".join(text.split()) for text in split.second)
    return [hash(pair) for pair in zip(first, second, strict=True)]


def _empty(split: Split) -> int:
    return sum(not text or text.isspace() for texts in (split.first, split.second or ()) for text in texts)


def _clashes(keys: Sequence[int], labels: Sequence[float]) -> tuple[int, int] | None:
    """How many texts have several labels, and how many rows these texts; None where there are none."""
    first: dict[int, float] = {}
    clashing = {key for key, label in zip(keys, labels, strict=True) if first.setdefault(key, label) != label}
    return (len(clashing), sum(key in clashing for key in keys)) if clashing else None
