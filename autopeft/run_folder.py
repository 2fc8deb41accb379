"""The folder of a search: the experiment, the study, kept weights, and views of them."""

from __future__ import annotations

import csv
import io
import json
import re
import uuid
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from autopeft.candidate import UNITS, Evaluation
from autopeft.config import check_path, dump_yaml, parse
from autopeft.doors import door, no_folder, read_json, read_text
from autopeft.errors import AutopeftError
from autopeft.experiment import Experiment, as_begun
from autopeft.searching.front import ParetoFront
from autopeft.searching.stored import Stored
from autopeft.searching.study_checks import DAMAGED, remove
from autopeft.searching.tables import role_of
from autopeft.writing import replacing

if TYPE_CHECKING:
    from autopeft.engine.setup import Setup
    from autopeft.searching.explanation import Explanation

T = TypeVar("T")

_ELSEWHERE = "give another run folder (out)"
#: Weights that a killed worker was writing: files of no other name, as the folder may be a link to one with more in it.
_LEFT_OVER = f".{'[0-9a-f]' * 12}[.-]*.partial"
#: What trainings' weights are called, for the same reason.
_OWN = re.compile(r"[0-9a-f]{12}(-[a-z0-9]+)*")


class _Held:
    """What says that a search holds a folder: one at a time, wherever it was started."""

    path: Path

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Refuse a second search in the same folder while one runs."""
        from filelock import FileLock, Timeout

        lock = FileLock(self._lock_file)
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            lock.acquire(timeout=0)
        except Timeout:
            raise AutopeftError(f"{self.path}: a search is running in this folder already") from None
        except OSError as error:
            raise AutopeftError(f"{self.path}: cannot be written ({error.strerror}); {_ELSEWHERE}") from error
        try:
            yield
        finally:
            lock.release()

    @property
    def is_running(self) -> bool:
        """Whether a search holds the folder now; in one that cannot be written nothing runs."""
        from filelock import FileLock, Timeout

        if not self._lock_file.is_file():
            return False
        try:
            with FileLock(self._lock_file, timeout=0):
                return False
        except Timeout:
            return True
        except OSError:
            return False

    @property
    def _lock_file(self) -> Path:
        return self.path / ".lock"


class RunFolder(_Held):
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
        self.search_id_file = path / ".search_id"
        self.plot_page = path / "pareto.html"
        self.plot_image = path / "pareto.png"
        self.explanation_files = (path / "explain.html", path / "explain.png", path / "explain.json")
        plots, report = (self.plot_page, self.plot_image), path / "report.html"
        self.views = [self.front_file, self.trials_file, self.setup_file, *plots, *self.explanation_files, report]
        # Views are written again and again, and an evaluation's part of them stays what it was.
        self._row = _Remembered(_row)

    @classmethod
    def existing(cls, path: str | Path) -> RunFolder:
        """The folder of an earlier search; `AutopeftError` when it is none."""
        check_path(path, "the folder of a search")
        folder = cls(Path(path))
        if not folder.experiment_file.is_file():
            what = "it has no experiment.yaml" if folder.path.is_dir() else no_folder(folder.path)
            raise AutopeftError(f"{path}: not the folder of a search ({what}); `autopeft search` says where it writes")
        return folder

    def experiment(self) -> Experiment:
        """The experiment that the folder holds."""
        try:
            return as_begun(Experiment.load(self.experiment_file))
        except AutopeftError as error:
            if ": unknown key" not in str(error):
                raise
            raise AutopeftError(f"{error}; if a newer autopeft began this search, use that one for it") from error

    @property
    def search_id(self) -> str | None:
        """The name of this folder's search, as its file says; None where it says none."""
        with suppress(AutopeftError, ValueError):
            return uuid.UUID(read_text(self.search_id_file).strip()).hex
        return None

    def claim(self, experiment: Experiment) -> bool:
        """Make the folder ready for this experiment; whether it holds results, which the study must then agree with.

        Before its first result a folder is nobody's: a mistake in the file can still be mended, and what was kept for
        the mistaken experiment goes. `AutopeftError` when results are there without a study, or of another experiment.
        """
        different, has_results = self._difference(experiment), self._has_results()
        # Later studies say themselves what they are of: this file may have been edited.
        if different and has_results and "format" not in Stored.load(self.path).header():
            raise AutopeftError(
                f"{self.path}: holds another search: {different}; give another run folder (out), or delete this one"
            )
        with door(self.path, "cannot be written", _ELSEWHERE):
            # Of a killed search, or of a mistaken one.
            leftover = [*self.path.glob(".*.partial*"), *self.weights.glob(_LEFT_OVER)]
            for file in [*leftover, *([] if has_results or not different else [self.prior_file, self.setup_file])]:
                file.unlink(missing_ok=True)
        if not has_results:
            self.write_experiment(experiment)
        return has_results

    def write_experiment(self, experiment: Experiment) -> None:
        """Write `experiment.yaml`, with all defaults."""
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
        """Whether the study has an evaluation; `AutopeftError` when it has none, and the table has."""
        is_there = self.study_file.exists()
        # A version before this one may have been killed when it began to write.
        is_empty = self.study_file.is_file() and not self.study_file.stat().st_size
        if is_there and not is_empty and Stored.load(self.path).evaluations():
            return True
        with door(self.trials_file):
            rows = len(self.trials_file.read_bytes().splitlines()) - 1 if self.trials_file.exists() else 0
        if rows > 0:
            what = "is empty" if is_empty else "has no evaluation" if is_there else "is missing"
            raise AutopeftError(f"{self.study_file}: {what}, but there are candidates in trials.csv; {DAMAGED}")
        if is_empty:
            remove(self.study_file)
        return False

    def setup(self) -> Setup | None:
        """What was measured of the engine when the search began; None before that."""
        from autopeft.engine.setup import Setup

        known = Stored.load(self.path).remembered("setup") if self.study_file.exists() else None
        if known is None and self.setup_file.is_file():
            # Searches that were begun with version 0.1 have it here only.
            known = read_json(self.setup_file)
        return None if known is None else parse(Setup, known, str(self.setup_file))

    def write_setup(self, setup: Setup) -> None:
        """Show it."""
        write_whole(self.setup_file, setup.model_dump_json(indent=2) + "\n")

    def write_views(self, front: ParetoFront, evaluations: Sequence[Evaluation]) -> None:
        """`front.json` and `trials.csv`, whole or not at all."""
        terms = json.dumps(front.terms_to_json(), indent=2).removesuffix("\n}")
        points = ",".join(f"\n    {json.dumps(front.point_to_json(e))}" for e in front.points)
        write_whole(self.front_file, f'{terms},\n  "points": [{points}\n  ]\n}}\n')
        write_whole(self.trials_file, _csv([{**self._row(e), **_role(front, e)} for e in evaluations]))

    def write_plots(self, front: ParetoFront) -> list[Path]:
        """The interactive and the still Pareto plot."""
        figure = front.plot()
        write_whole(self.plot_page, figure.to_html(include_plotlyjs=True, full_html=True))
        write_still(self.plot_image, front.still)
        return [self.plot_page, self.plot_image]

    def write_explanation(self, explanation: Explanation) -> list[Path]:
        """What the search has learned: the interactive page, the still, and all figures as JSON."""
        page, image, figures = self.explanation_files
        write_whole(figures, json.dumps(explanation.to_json(), indent=2) + "\n")
        write_whole(page, explanation.plot().to_html(include_plotlyjs=True, full_html=True))
        write_still(image, explanation.still)
        return [page, image, figures]

    def drop_weights(self, names: Iterable[str]) -> None:
        """Delete these trainings' weights, those for cutting too. Others stay: one may have just been written."""
        with door(self.weights, "cannot be written", "mend that, and give the same command again"):
            for file in (f"{name}{end}" for name in names for end in (".safetensors", f"{UNITS}.safetensors")):
                (self.weights / file).unlink(missing_ok=True)

    def keep_weights(self, names: Collection[str]) -> None:
        """Delete all trainings' weights but those of these names; only when nothing is trained any more."""
        with door(self.weights, "cannot be written", "mend that, and give the same command again"):
            for file in self.weights.glob("*.safetensors"):
                if _OWN.fullmatch(file.stem) and file.stem not in names:
                    file.unlink(missing_ok=True)


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


def _role(front: ParetoFront, e: Evaluation) -> dict[str, str]:
    """What the candidate is in its search, and its name where it has controls."""
    names = front.verdict.names
    return {"role": role_of(front, e), **({"control": names.get(e.key, "")} if names else {})}


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
    _whole(path, lambda partial: partial.write_text(text, encoding="utf-8"))


def write_still(path: Path, save: Callable[[Path], None]) -> None:
    """Write a picture in the same way."""
    # Before the first file: fonts are looked up, and an error of that is none of the folder's.
    import matplotlib.font_manager  # noqa: F401

    _whole(path, save)


def _whole(path: Path, write: Callable[[Path], object]) -> None:
    remedy = "what is finished is in study.db: mend that, and give the same command again"
    with door(path, "cannot be written", remedy), replacing(path) as partial:
        write(partial)
