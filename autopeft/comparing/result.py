"""A comparison's outcome: rows, and the files that show them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from autopeft.comparing.choosing import grid
from autopeft.comparing.contenders import Contender
from autopeft.comparing.rows import Row, cells, note_of, row_of, save_plot, to_csv, to_markdown
from autopeft.comparing.state import Entry, write
from autopeft.markup import joined, table, tag
from autopeft.searching.objective import Objective

if TYPE_CHECKING:
    import pandas as pd

    from autopeft.session import Session


class Comparison:
    """The table of a comparison. `rows` are mappings of plain values (those of `--json`), in the order of methods."""

    def __init__(
        self, folder: Path, metrics: Sequence[str], backbone_params: int, seeds: Sequence[int], note: str
    ) -> None:
        self.folder, self.metrics, self.seeds, self.note = folder, tuple(metrics), tuple(seeds), note
        self.rows: list[Row] = []
        self._backbone_params = backbone_params

    @classmethod
    def of(cls, session: Session, folder: Path, seeds: Sequence[int], rates: int) -> Self:
        """Without rows yet."""
        metrics = session.data.metrics
        note = note_of(metrics[0], grid(1.0, rates), seeds[0], len(seeds))
        return cls(folder, metrics, session.shape.backbone_params, seeds, note)

    @property
    def metric(self) -> str:
        """The metric that rates are chosen by."""
        return self.metrics[0]

    @property
    def files(self) -> list[Path]:
        """The views in the folder: CSV, Markdown, JSON, plot."""
        return [self.folder / f"compare.{kind}" for kind in ("csv", "md", "json", "png")]

    def update(self, found: Sequence[tuple[Contender, Entry]]) -> None:
        """The rows anew, and their files."""
        self.rows = [row_of(one, entry, self.metrics, self._backbone_params, self.seeds) for one, entry in found]
        rows, text, data, _ = self.files
        _text(rows, to_csv(self.rows))
        _text(text, self.to_markdown())
        _text(data, json.dumps(self.to_json(), indent=2) + "\n")

    def draw(self) -> None:
        """The plot's file."""
        write(self.files[-1], lambda partial: save_plot(partial, self.rows, self.metric))

    def row(self, method: str) -> Row:
        """The row of a method; `KeyError` when there is none."""
        return {row["method"]: row for row in self.rows}[method]

    def to_json(self) -> dict[str, Any]:
        """What `autopeft compare --json` prints."""
        return {"rows": self.rows}

    def to_frame(self) -> pd.DataFrame:
        """The rows as a data frame."""
        import pandas as pd

        return pd.DataFrame(self.rows)

    def to_markdown(self) -> str:
        """A table for people, and how it came about."""
        return to_markdown(self.rows, self.metric, self.note)

    def __repr__(self) -> str:
        loss = Objective.of(self.metric).loss
        ended = [row for row in self.rows if row["status"] == "done"]
        best = min(ended, key=lambda row: loss(row[f"test_{self.metric}"]), default=None)
        said = "" if best is None else f", best {best['method']}: test {self.metric} {best[f'test_{self.metric}']:.4f}"
        return f"Comparison({str(self.folder)!r}: {len(self.rows)} methods{said})"

    def _repr_html_(self) -> str:
        return joined([table(*cells(self.rows, self.metric), {0}), tag("p", self.note)])


def _text(path: Path, text: str) -> None:
    write(path, lambda partial: partial.write_text(text, encoding="utf-8"))
