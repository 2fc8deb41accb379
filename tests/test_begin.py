"""How a search begins: what is measured, when, and how often."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tiny_project import experiment, not_measured

from autopeft.begin import begin_measuring, open_study, setup_of
from autopeft.experiment import Experiment
from autopeft.run_folder import RunFolder
from autopeft.session import Session


def test_the_engine_is_measured_beside_the_start_of_ray_and_once_a_search(tmp_path: Path) -> None:
    session, folder = Session(Experiment.of(experiment(tmp_path, runner="ray"), "test")), RunFolder(tmp_path / "run")
    with folder.locked(), ThreadPoolExecutor(1) as executor, not_measured():
        study = open_study(session, folder)
        measuring = begin_measuring(session, folder, study, executor)
        assert measuring is not None
        setup = setup_of(session, folder, study, measuring)
        assert setup.flops_per_second == measuring.result().flops_per_second == 1e9
        assert begin_measuring(session, folder, study, executor) is None
        assert setup_of(session, folder, study) == setup


def test_a_runner_in_this_process_has_nothing_to_measure_beside(tmp_path: Path) -> None:
    session, folder = Session(Experiment.of(experiment(tmp_path), "test")), RunFolder(tmp_path / "run")
    with folder.locked(), ThreadPoolExecutor(1) as executor:
        assert begin_measuring(session, folder, open_study(session, folder), executor) is None
