"""The data sets of the benchmarks: TREC's question classes, and others that stand beside it, as JSON lines.

Nothing here imports more than the standard library: the contenders' scripts read their data with it.
"""

from __future__ import annotations

import json
import os
from collections import defaultdict
from pathlib import Path
from typing import Any

SPLITS = {"train": "train.jsonl", "validation": "dev.jsonl", "test": "test.jsonl"}


def folder(name: str = "trec") -> Path:
    """`$AUTOPEFT_DATA/<name>`, or the data set beside the checkout; ends the program where there is none."""
    found = _root() / name
    if not all((found / file).is_file() for file in SPLITS.values()):
        files = ", ".join(SPLITS.values())
        raise SystemExit(f"skipped: {found} has no {files}; set AUTOPEFT_DATA to a folder that holds {name}/")
    return found


def is_here(name: str = "trec") -> bool:
    return all((_root() / name / file).is_file() for file in SPLITS.values())


def _root() -> Path:
    given = os.environ.get("AUTOPEFT_DATA")
    return Path(given) if given else Path(__file__).resolve().parents[3] / "shared" / "data"


def rows(split: str, name: str = "trec") -> list[dict[str, Any]]:
    """The records of a split (train, validation or test) in the order of the file."""
    return [json.loads(line) for line in _lines(folder(name) / SPLITS[split])]


def _lines(path: Path) -> list[str]:
    """The lines of a file but for empty ones; `str.splitlines` also breaks at U+0085 and U+2028, which texts hold."""
    return [line for line in path.read_text(encoding="utf-8").split("\n") if line.strip()]


def texts_and_labels(split: str) -> tuple[list[str], list[int]]:
    """TREC's questions, and the numbers of their classes in the alphabetical order of the names."""
    names = {label: i for i, label in enumerate(sorted({str(row["label"]) for row in rows("train")}))}
    found = rows(split)
    return [row["text_a"] for row in found], [names[str(row["label"])] for row in found]


def task(name: str = "trec", **fields: Any) -> dict[str, Any]:
    """The `task` of an autopeft experiment, with further fields of it."""
    at = folder(name)
    text = [column for column in ("text_a", "text_b") if column in rows("test", name)[0]]
    files = {split: str(at / file) for split, file in SPLITS.items()}
    return {"name": "files", **files, "text": text, "label": "label", **fields}


def subset(to: Path, per_class: int, name: str = "trec") -> Path:
    """Write the first `per_class` rows of every class and split into `to/<name>`; `to`, to stand for AUTOPEFT_DATA."""
    source, target = folder(name), to / name
    target.mkdir(parents=True)
    for split, file in SPLITS.items():
        taken: dict[Any, int] = defaultdict(int)
        kept = []
        for row, line in zip(rows(split, name), _lines(source / file), strict=True):
            taken[row["label"]] += 1
            if taken[row["label"]] <= per_class:
                kept.append(line)
        (target / file).write_text("\n".join(kept) + "\n", encoding="utf-8")
    return to
