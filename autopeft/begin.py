"""How a search begins, or goes on: its folder, its study, what it was measured to be."""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Iterator
from concurrent.futures import Executor, Future
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING

from autopeft.doing import doing
from autopeft.engine.settings import EARLIER
from autopeft.errors import AutopeftError
from autopeft.experiment import Experiment, as_begun
from autopeft.run_folder import RunFolder, write_whole
from autopeft.searching.identity import versions
from autopeft.searching.stored import Stored
from autopeft.session import Session, middle, typical_candidates
from autopeft.tracking import Input, SearchInfo, Status, Tracker

if TYPE_CHECKING:
    from autopeft.engine.setup import Setup
    from autopeft.searching.problem import Prior
    from autopeft.searching.study import Study


def open_study(session: Session, folder: RunFolder) -> Study:
    """The study of the folder, which is this experiment's from now on.

    `AutopeftError` when the folder holds another search, or one whose study is damaged.
    """
    from autopeft.searching.study import Study
    from autopeft.searching.warm_start import prior_text

    sampler = session.experiment.sampler
    prior = _prior(session, folder, folder.claim(session.experiment))
    kept = None if prior is None else hashlib.sha256(prior_text(prior).encode()).hexdigest()[:12]
    study = Study.open(
        folder.path,
        session.space,
        session.budget,
        session.objectives,
        {"name": sampler.name, **sampler.model_dump()},
        fingerprint=session.data.fingerprint,
        epochs=session.experiment.training.epochs,
        prior=prior,
        settings={**session.settings, "prior.json": kept},
    )
    folder.write_experiment(session.experiment)
    return study


def going_on(experiment: Experiment, folder: RunFolder) -> Experiment:
    """The experiment; of space, controls, descent, confirmation and later defaults it has what was begun with.

    Only where it does not say what it wants of them, and the folder has results. What is wrong with the folder shows
    when it is opened.
    """
    with suppress(AutopeftError):
        known = Stored.load(folder.path)
        if known.evaluations():
            header = known.header()
            there = {"controls": header.get("controls"), "descent": header.get("descent")}
            there |= {name: header.get("training", {}).get(name, first) for name, first in EARLIER.items()}
            with suppress(AutopeftError):
                begun = folder.experiment()
                there |= {"confirm": begun.confirm, "space": begun.space}
            return as_begun(experiment, there)
    return experiment


@contextmanager
def tracking_ended(opening: Future[Tracker]) -> Iterator[Event]:
    """What ends the search before it has begun (the event is set then) ends its tracking too; later the views do."""
    begun = Event()
    try:
        yield begun
    except BaseException as error:
        if not begun.is_set():
            with suppress(Exception):
                status: Status = "KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED"
                opening.result().finish([], [], [], [], {}, status)
        raise


def begin_measuring(session: Session, folder: RunFolder, study: Study, executor: Executor) -> Future[Setup] | None:
    """Begin to measure in a thread, while the runner starts its processes; None where that can't or needn't be."""
    # What cannot be measured on test is said before anything is trained.
    _ = session.tests
    if study.remembered("setup") or study.finished or not session.experiment.runner.measures_here:
        return None
    return executor.submit(_measured, session, folder)


def setup_of(session: Session, folder: RunFolder, study: Study, measuring: Future[Setup] | None = None) -> Setup:
    """How this search trains: measured when it begins, and the same when it is resumed, since scores depend on it."""
    experiment = session.experiment
    # Before its first result a folder is nobody's: what stands there may be of another model.
    runner, known = experiment.runner, folder.setup() if study.finished or study.remembered("setup") else None
    if known is not None:
        setup = known
    elif study.finished:
        raise AutopeftError(
            f"{folder.setup_file}: is missing, and the scores of this search depend on how its engine was measured; "
            "restore a copy of it, or use a new folder"
        )
    else:
        setup = _measured(session, folder) if measuring is None else measuring.result()
    if study.remembered("setup") is None:
        study.remember("setup", setup.model_dump(mode="json"))
    folder.write_setup(setup)
    if runner.pack != "auto":
        return setup.model_copy(update={"pack": runner.pack})
    if experiment.trials is None:
        return setup
    return setup.model_copy(update={"pack": setup.pack_of(experiment.trials, runner.parallel)})


def _measured(session: Session, folder: RunFolder) -> Setup:
    with doing("measuring the engine"):
        typical = middle(session, typical_candidates(session))
        return session.experiment.runner.measure(session.worker_spec(folder.weights), session.tokens, typical)


def search_info(session: Session, folder: RunFolder, study: Study) -> SearchInfo:
    """What a tracker is told of the search."""
    experiment = session.experiment
    params: dict[str, str | int | float] = {
        "model": experiment.model,
        "task": session.data.name,
        "space": experiment.space if isinstance(experiment.space, str) else "own",
        "space.methods": ", ".join(dict.fromkeys(session.space.methods.values())),
        "sampler": experiment.sampler.name,
        "sampler.seed": experiment.sampler.seed,
        "stopping": experiment.stopping.name,
        "metrics": ", ".join(session.data.metrics),
        "splits": session.data.note,
        "backbone_params": session.shape.backbone_params,
        "head_params": session.head_params,
        **{f"budget.{name}": limit for name, limit in session.budget.limits.items()},
        **{f"training.{name}": value for name, value in experiment.training.model_dump(exclude_none=True).items()},
        **_written(session),
    }
    given = _inputs(session)
    plain = {name: value if isinstance(value, str | int | float) else str(value) for name, value in params.items()}
    told = {"params": plain, "inputs": [asdict(one) for one in given]}
    if study.remembered("tracked") != told:
        # So that the search can be shown again without its model and its data.
        study.remember("tracked", told)
    return SearchInfo(
        name=folder.path.name,
        run_dir=folder.path,
        search_id=_search_id(folder, study),
        experiment_yaml=folder.experiment_file,
        params=params,
        objectives=[(o.metric, {"max": "maximize", "min": "minimize"}[o.direction]) for o in session.objectives],
        inputs=given,
    )


def _inputs(session: Session) -> list[Input]:
    """The data and the model, by what they hold."""
    experiment, data = session.experiment.resolved(), session.data
    rows = {name: len(getattr(data, name)) for name in ("train", "validation", "test")}
    files = json.dumps(dict(session.model_files), sort_keys=True)
    sizes = {"backbone_params": session.shape.backbone_params, "head_params": session.head_params}
    model, name = {"model": experiment["model"], "files": dict(session.model_files)}, Path(experiment["model"]).name
    return [
        Input(data.name, data.fingerprint, "training", experiment["task"], {"num_rows": sum(rows.values()), **rows}),
        Input(name, hashlib.sha256(files.encode()).hexdigest()[:16], "model", model, sizes),
    ]


def _written(session: Session) -> dict[str, str]:
    """How texts are written and measured, where they are."""
    if session.experiment.generation is None or (asking := session.tokens.asking) is None:
        return {}
    signatures = {f"generation.{name}": text for name, text in asking.signatures().items()}
    return {"generation": asking.described(), **signatures}


def upgraded(study: Study) -> list[str]:
    """What to know of libraries that are others than when the search began."""
    now, began = versions(), study.remembered("versions") or {}
    differ = [f"{name} {old} then, {now[name]} now" for name, old in began.items() if now.get(name, old) != old]
    if not differ:
        return []
    return [f"this search began with other libraries ({'; '.join(differ)}): scores may differ in the last digits"]


def _prior(session: Session, folder: RunFolder, has_results: bool) -> Prior | None:
    """What the search that this one starts from found; kept here, so that a resumed search has what it began with.

    None without another one. `AutopeftError` when that cannot serve (see `prior_of`).
    """
    from autopeft.searching.warm_start import kept_prior, prior_of, prior_text

    other = session.experiment.warm_start
    if other is None:
        return None
    # Before its first result a folder is nobody's: what stands there may be of another run.
    if not (has_results and folder.prior_file.is_file()):
        write_whole(folder.prior_file, prior_text(prior_of(Path(other), session.space)))
    return kept_prior(folder.prior_file, session.space)


def _search_id(folder: RunFolder, study: Study) -> str:
    """A name for this folder's search that stays when it is resumed, and differs when it is made anew."""
    here, known = folder.search_id, study.remembered("search")
    name = str(known["id"]) if known else here or uuid.uuid4().hex
    if name != here:
        write_whole(folder.search_id_file, name)
    if known is None:
        study.remember("search", {"id": name})
    return name
