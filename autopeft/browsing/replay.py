"""A search shown in MLflow from its run folder alone: after a move, beside others, or where it was not tracked."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autopeft.errors import AutopeftError
from autopeft.result import SearchResult
from autopeft.run_folder import RunFolder
from autopeft.searching.highlights import STATE, figures, highlights
from autopeft.tracking import Input, SearchInfo, Status, sizes_over
from autopeft.tracking.mlflow_store import MlflowTracking, Place, bounded, find, given, holds, place_of

#: What a study remembers of how a tracker was told of it.
TRACKED = "tracked"


@dataclass(frozen=True)
class Shown:
    """Where a search is seen: the run in a store."""

    experiment_id: str
    run_id: str


class _OfAFolder(MlflowTracking):
    """What a run folder's file says. `uri` may be a stranger's, and so may the rows of the database there."""

    def place(self, run_dir: Path, search_id: str = "") -> Place:
        place = super().place(run_dir, search_id)
        return bounded(place) if self.uri else place


def tracking_of(result: SearchResult, uri: str | None = None) -> MlflowTracking:
    """How it is shown: as its experiment says; in a store of its own where it was not tracked, or at `uri`.

    A database in a file is believed if it holds the search, and what is `elsewhere` is an `AutopeftError`.
    """
    own = result.experiment.tracking
    own = own if isinstance(own, MlflowTracking) else MlflowTracking()
    # What the machine does now has nothing to do with that search.
    kept = _OfAFolder(experiment=own.experiment, system_metrics=False)
    return kept.model_copy(update={"uri": uri or _believed(result)})


def elsewhere(result: SearchResult) -> Place | None:
    """The server that the folder's own file names, or the database on one, unless MLFLOW_TRACKING_URI does too.

    Nothing is sent there: MLflow would send a user's password or token along.
    """
    place = _named(result)
    return None if place is None or place.file is not None else place


def _named(result: SearchResult) -> Place | None:
    """What the folder's own file names, and the environment does not."""
    own, yours = result.experiment.tracking, given()
    place = place_of(own.uri, "uri") if isinstance(own, MlflowTracking) and own.uri else None
    return None if place is None or (yours is not None and yours.shown == place.shown) else place


def _believed(result: SearchResult) -> str | None:
    """The database of the folder's own file, if the search is there; None where the environment or the folder is."""
    if (place := elsewhere(result)) is not None:
        raise AutopeftError(
            f"{RunFolder(result.run_dir).experiment_file}: tracking.uri: nothing is sent to {place.shown}, which a "
            "stranger may have written there; if it is yours, name it in MLFLOW_TRACKING_URI"
        )
    named = _named(result)
    there = named is not None and named.file is not None and holds(named.file, id_of(result))
    return named.uri if named is not None and there else None


def show(result: SearchResult, tracking: MlflowTracking, search_id: str = "") -> Shown:
    """Bring MLflow in step with the run folder, and say where the search is there.

    Nothing is written where all is there already, and to the store of a search that is running.
    """
    info = info_of(result, search_id)
    front, running = result.front, RunFolder(result.run_dir).is_running
    seen = highlights(front, result.run_dir.absolute())
    known = find(tracking.place(info.run_dir, info.search_id), tracking.experiment, info.search_id)
    if known is not None:
        as_it_is = known.data.tags.get(STATE) == seen.tags[STATE] and known.info.status != "RUNNING"
        if as_it_is or (running and not search_id):
            return Shown(known.info.experiment_id, known.info.run_id)
    opened = tracking.open(info)
    keys = [e.key for e in front.points]
    opened.sync(result.evaluations, sizes_over(_methods(result.header)), set(keys), seen)
    if running:
        opened.wait()
    else:
        curve, summary = front.hypervolume_curve(relative=True), figures(front)
        status: Status = "FINISHED" if result.finished else "KILLED"
        opened.finish(result.evaluations, keys, RunFolder(result.run_dir).views, curve, summary, status, seen)
    return Shown(opened.tracker.experiment_id, opened.tracker.parent_id)


def info_of(result: SearchResult, search_id: str = "") -> SearchInfo:
    """What a tracker is told of the search: as the search told it, or as far as its header and experiment say."""
    folder, told, header = RunFolder(result.run_dir.absolute()), result.remembered(TRACKED) or {}, result.header
    directions = {"max": "maximize", "min": "minimize"}
    return SearchInfo(
        name=folder.path.name,
        run_dir=folder.path,
        search_id=search_id or id_of(result),
        experiment_yaml=folder.experiment_file,
        params=_params(told.get("params")) or _little(result),
        objectives=[(o["metric"], directions[o["direction"]]) for o in header["objectives"]],
        inputs=_inputs(told.get("inputs")),
        period=_period(result),
    )


def _period(result: SearchResult) -> tuple[float, float]:
    """When the search ended, as its study's file says, and so long before that as its trainings took."""
    ended = RunFolder(result.run_dir).study_file.stat().st_mtime
    return ended - sum(e.seconds for e in result.evaluations) / result.experiment.runner.parallel, ended


def id_of(result: SearchResult) -> str:
    """The name that the search goes by in MLflow; of its place, where a version that had none began it.

    Version 0.1 wrote it into a file of the folder only.
    """
    known = (result.remembered("search") or {}).get("id")
    place = hashlib.sha256(str(result.run_dir.absolute()).encode()).hexdigest()[:32]
    return str(known or RunFolder(result.run_dir).search_id or place)


def _methods(header: Mapping[str, Any]) -> list[str]:
    """The methods of a search's space, by name; what is written otherwise in a study is left out."""
    blocks = header["space"].get("blocks")
    written = blocks.items() if isinstance(blocks, dict) else ()
    return [str(block.get("method", name)) for name, block in written if isinstance(block, dict)]


def _params(told: Any) -> dict[str, str | int | float]:
    """Flat names and values; anything else in a study is left out."""
    return {k: v for k, v in told.items() if isinstance(v, str | int | float)} if isinstance(told, dict) else {}


def _little(result: SearchResult) -> dict[str, str | int | float]:
    experiment = result.experiment
    return {
        "model": experiment.model,
        "task": experiment.task.name,
        "space": experiment.space if isinstance(experiment.space, str) else "own",
        "sampler": experiment.sampler.name,
        "sampler.seed": experiment.sampler.seed,
        **{f"budget.{name}": limit for name, limit in result.header["budget"].items()},
        **{f"training.{name}": value for name, value in experiment.training.model_dump(exclude_none=True).items()},
    }


def _inputs(told: Any) -> list[Input]:
    try:
        return [Input(**one) for one in told or []]
    except TypeError as error:
        raise AutopeftError(f"the study's '{TRACKED}' is damaged ({error})") from None


def gathered(folder: Path, runs: list[Path]) -> tuple[Path, Shown | None, list[str]]:
    """All searches of a folder in one store, `mlflow.db` in it: the store, where one of them is, what was left out."""
    database, shown, left_out = folder.absolute() / "mlflow.db", None, []
    seen: set[str] = set()
    for run in runs:
        try:
            result = SearchResult.open(run)
            # A copy has the name of what it was copied from.
            name = id_of(result)
            name = f"{name}-{run.name}" if name in seen else name
            seen.add(name)
            shown = _in_store(result, database, name)
        except AutopeftError as error:
            left_out.append(str(error))
    return database, shown, left_out


def _in_store(result: SearchResult, database: Path, name: str) -> Shown:
    """Where the search is in that store, brought in step with its folder unless it may be logging there itself now."""
    tracking = tracking_of(result, f"sqlite:///{database.as_posix()}")
    if _logs_to(result, database, name):
        known = find(tracking.place(result.run_dir.absolute(), name), tracking.experiment, name)
        if known is not None:
            return Shown(known.info.experiment_id, known.info.run_id)
    return show(result, tracking, name)


def _logs_to(result: SearchResult, database: Path, name: str) -> bool:
    """Whether the search runs, and that store, which has it, may be its own: two would delete each other's runs."""
    own = result.experiment.tracking
    if not isinstance(own, MlflowTracking) or not RunFolder(result.run_dir).is_running or not holds(database, name):
        return False
    # With a store of its own in its folder it does not log to one beside it.
    return own.uri is not None or not (result.run_dir / database.name).is_file()
