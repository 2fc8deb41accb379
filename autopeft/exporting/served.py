"""An export as a model that MLflow serves: rows of texts in, labels with probabilities (or texts) out.

MLflow imports this module by its name, which stands in the saved model; nothing in that is run.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from autopeft.exporting.predicting import Predictor, Text

if TYPE_CHECKING:
    import pandas as pd


class Served:
    """What MLflow calls `python_function`."""

    def __init__(self, folder: Path) -> None:
        self._predictor = Predictor(folder)

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns of a row."""
        return self._predictor.columns

    def predict(self, rows: pd.DataFrame, params: dict[str, Any] | None = None) -> pd.DataFrame:
        """A row of predictions for each row of texts."""
        import pandas as pd

        texts: list[Text] = [
            str(row[0]) if len(self.columns) == 1 else (str(row[0]), str(row[1]))
            for row in rows[list(self.columns)].itertuples(index=False)
        ]
        return pd.DataFrame(list(self._predictor(texts)))


def _load_pyfunc(data_path: str) -> Served:
    """The name and the argument are MLflow's."""
    return Served(Path(data_path))
