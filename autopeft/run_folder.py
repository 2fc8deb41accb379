"""The folder of a search: the experiment, the study, kept weights, and views of them."""

from __future__ import annotations

import csv
import io
import json
import os
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from autopeft.candidate import Evaluation
from autopeft.config import dump_yaml, parse
from autopeft.doors import read_json
from autopeft.errors import AutopeftError
from autopeft.experiment import Experiment
from autopeft.searching.front import ParetoFront, point_to_json

if TYPE_CHECKING:
    from autopeft.engine.setup import Setup
    from autopeft.searching.explain import Explanation
    from autopeft.searching.problem import Prior
    from autopeft.space import SearchSpace

T = TypeVar("T")


class RunFolder:
    """`experiment.yaml` (resolved), `study.db`, `trials.csv`, `front.json`, plots, `weights/`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.experiment_file = path / "experiment.yaml"
        self.weights = path / "weights"
        self.study_file = path / "study.db"
        self.trials_file = path / "trials.csv"
        self.front_file = path / "front.json"
        self.setup_file = path / "engine.json"
        self.prior_file = path / "prior.json"
        self.plot_page = path / "pareto.html"
        self.plot_image = path / "pareto.png"
        self.explanation_files = (path / "explain.html", path / "explain.png", path / "explain.json")
        # Views are written again and again, and an evaluation's part of them stays what it was.
        self._row, self._point = _Remembered(_row), _Remembered(lambda e: json.dumps(point_to_json(e)))

    @classmethod
    def existing(cls, path: str | Path) -> RunFolder:
        """The folder of an earlier search; `AutopeftError` when it is none."""
        folder = cls(Path(path))
        if not folder.experiment_file.is_file():
            what = "it has no experiment.yaml" if folder.path.is_dir() else "there is no such folder"
            raise AutopeftError(f"{path}: not the folder of a search ({what}); `autopeft search` says where it writes")
        return folder

    def experiment(self) -> Experiment:
        """The experiment that the folder holds."""
        return Experiment.load(self.experiment_file)

    def claim(self, experiment: Experiment) -> None:
        """Make the folder this experiment's; another experiment's folder is refused with the field that differs.

        Before its first result a folder is nobody's: a mistake in the file can still be mended, and what was proposed
        or kept for the mistaken experiment goes.
        """
        different = self._difference(experiment)
        if different and self._has_results():
            raise AutopeftError(
                f"{self.path}: holds another search: {different}; give another run folder (out), or delete this one"
            )
        try:
            leftover = [self.study_file, self.prior_file, self.setup_file] if different else []
            # Of a killed search.
            leftover += [*self.path.glob(".*.partial"), *self.weights.glob(".*.partial")]
            for file in leftover:
                file.unlink(missing_ok=True)
        except OSError as error:
            raise AutopeftError(f"{self.path}: cannot be written ({error.strerror})") from error
        write_whole(self.experiment_file, dump_yaml(experiment.resolved()))

    def _difference(self, experiment: Experiment) -> str | None:
        """How the folder's experiment differs from this one; None where there is none, or it does not."""
        if not self.experiment_file.is_file():
            return None
        try:
            return experiment.difference(self.experiment())
        except AutopeftError as error:
            return f"its experiment.yaml can't be read ({error})"

    def _has_results(self) -> bool:
        from autopeft.searching.study import Study

        return self.trials_file.is_file() or (self.study_file.is_file() and bool(Study.read(self.path)))

    def setup(self) -> Setup | None:
        """What was measured of the engine when the search began; None before that."""
        from autopeft.engine.setup import Setup

        if not os.path.lexists(self.setup_file):
            return None
        # Not measured anew in silence: with another precision or pack the rest of the search would score otherwise.
        remedy = "delete it to have the engine measured anew"
        return parse(Setup, read_json(self.setup_file, remedy), str(self.setup_file))

    def write_setup(self, setup: Setup) -> None:
        """Keep it for when the search is resumed."""
        write_whole(self.setup_file, setup.model_dump_json(indent=2) + "\n")

    def prior(self, space: SearchSpace, other: str | None) -> Prior | None:
        """What the search in the run folder `other` found; kept here, so that a resumed search has what it began with.

        None without another one. `AutopeftError` when that cannot serve (see `prior_of`).
        """
        from autopeft.searching.warm_start import kept_prior, prior_of, prior_text

        if other is None:
            return None
        # Before its first result a folder is nobody's: what stands there may be of another run.
        if not (self.prior_file.is_file() and self.trials_file.is_file()):
            write_whole(self.prior_file, prior_text(prior_of(Path(other), space)))
        return kept_prior(self.prior_file, space)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Refuse a second search in the same folder while one runs."""
        from filelock import FileLock, Timeout

        try:
            self.path.mkdir(parents=True, exist_ok=True)
            lock = FileLock(self.path / ".lock")
            lock.acquire(timeout=0)
        except Timeout:
            raise AutopeftError(f"{self.path}: a search is running in this folder already") from None
        except OSError as error:
            raise AutopeftError(f"{self.path}: cannot be written ({error.strerror})") from error
        try:
            yield
        finally:
            lock.release()

    def search_id(self) -> str:
        """A name for this folder's search that stays when it is resumed, and differs when it is made anew."""
        file = self.path / ".search_id"
        if not file.is_file():
            write_whole(file, uuid.uuid4().hex)
        return file.read_text(encoding="utf-8").strip()

    def write_views(self, front: ParetoFront, evaluations: Sequence[Evaluation]) -> None:
        """`front.json` and `trials.csv`, whole or not at all."""
        terms = json.dumps(front.terms_to_json(), indent=2).removesuffix("\n}")
        points = ",".join(f"\n    {self._point(e)}" for e in front.points)
        write_whole(self.front_file, f'{terms},\n  "points": [{points}\n  ]\n}}\n')
        write_whole(self.trials_file, _csv([self._row(e) for e in evaluations]))

    def write_plots(self, front: ParetoFront) -> list[Path]:
        """The interactive and the still Pareto plot."""
        figure = front.plot()
        write_whole(self.plot_page, figure.to_html(include_plotlyjs=True, full_html=True))
        front.still(self.plot_image)
        return [self.plot_page, self.plot_image]

    def write_explanation(self, explanation: Explanation) -> list[Path]:
        """What the search has learned: the interactive page, the still, and all figures as JSON."""
        page, image, figures = self.explanation_files
        write_whole(figures, json.dumps(explanation.to_json(), indent=2) + "\n")
        write_whole(page, explanation.plot().to_html(include_plotlyjs=True, full_html=True))
        explanation.still(image)
        return [page, image, figures]

    def drop_weights(self, keys: Iterable[str]) -> None:
        """Delete the weights of these candidates. Others stay: a worker may have just written them."""
        for key in keys:
            (self.weights / f"{key}.safetensors").unlink(missing_ok=True)


class _Remembered(Generic[T]):
    """A function of an evaluation, worked out anew only when the evaluation has changed."""

    def __init__(self, make: Callable[[Evaluation], T]) -> None:
        self._make = make
        self._made: dict[int, tuple[Evaluation, T]] = {}

    def __call__(self, evaluation: Evaluation) -> T:
        known = self._made.get(evaluation.number)
        if known is None or known[0] is not evaluation:
            known = self._made[evaluation.number] = (evaluation, self._make(evaluation))
        return known[1]


def _row(e: Evaluation) -> dict[str, Any]:
    """A candidate's row: number, key, status, metrics, training hyper-parameters, the hybrid in words and JSON."""
    return {
        "number": e.number,
        "key": e.key,
        "status": e.status,
        "error": e.error or "",
        "repaired": e.repaired,
        "seed": e.seed,
        "epochs": e.fidelity,
        "seconds": round(e.seconds, 3),
        **e.metrics,
        **{f"training.{name}": value for name, value in e.candidate.training.items()},
        "hybrid": e.candidate.hybrid.describe(),
        "hybrid_json": json.dumps(e.candidate.hybrid.to_json()),
    }


def _csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """The rows as a table; what a row does not have is left empty."""
    text = io.StringIO()
    columns = dict.fromkeys(name for row in rows for name in row)
    writer = csv.DictWriter(text, list(columns), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def write_whole(path: Path, text: str) -> None:
    """Write a file so that a reader (or a crash) never sees half of it."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        partial.write_text(text, encoding="utf-8")
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise AutopeftError(f"{path}: cannot be written ({error.strerror}); what is finished is in study.db") from error
