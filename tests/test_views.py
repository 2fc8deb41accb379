"""What a search leaves in its folder while it runs; nothing is trained."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pandas as pd
import pytest
from test_study import BUDGET, OBJECTIVES, SPACE, evaluated, opened

from autopeft import launch
from autopeft.candidate import Evaluation
from autopeft.engine.settings import TrainingSettings
from autopeft.run_folder import RunFolder
from autopeft.searching.front import ParetoFront
from autopeft.searching.study import Study
from autopeft.tracking import SearchInfo, tracking_from

#: The part of a session that the views look at.
#: What the views read of a session; its FLOPs have tests of their own.
SESSION = cast(
    "Any",
    SimpleNamespace(
        objectives=OBJECTIVES,
        budget=BUDGET,
        space=SPACE,
        cost_model=SimpleNamespace(share=lambda hybrids, workers, trained: 0.9),
        tokens=SimpleNamespace(train=range(96)),
        experiment=SimpleNamespace(runner=SimpleNamespace(parallel=1), training=TrainingSettings(seed=7)),
    ),
)


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    folder = RunFolder(tmp_path / "run")
    folder.weights.mkdir(parents=True)
    return folder


def views_of(folder: RunFolder, study: Study) -> launch.Views:
    return launch.Views(SESSION, folder, study, tracking_from("none").open(SearchInfo("s", folder.path, "id")))


def told(study: Study, folder: RunFolder, **changes: Any) -> Evaluation:
    proposal = study.ask()
    (folder.weights / f"{proposal.candidate.key}.safetensors").touch()
    return study.tell(evaluated(proposal, **changes))


def keys_in(folder: RunFolder) -> list[str]:
    return list(pd.read_csv(folder.trials_file)["key"])


def test_views_are_of_all_in_the_end(folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "_PAUSE", 1e9)
    study = opened(folder.path)
    views, keys = views_of(folder, study), []
    for _ in range(6):
        evaluation = told(study, folder)
        views.finished(evaluation)
        keys.append(evaluation.key)
        assert keys_in(folder) == keys[:1]
    views.finish("FINISHED")
    assert keys_in(folder) == keys
    front = ParetoFront(study.evaluations(), OBJECTIVES, BUDGET.limits)
    assert json.loads(folder.front_file.read_text()) == front.to_json()
    assert {p.stem for p in folder.weights.iterdir()} == {e.key for e in front.points}


def test_views_catch_up_when_the_pause_is_over(folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "_PAUSE", 1e9)
    study = opened(folder.path)
    views = views_of(folder, study)
    views.finished(told(study, folder))
    views.finished(told(study, folder))
    proposal = study.ask()
    views.started(proposal)
    assert len(keys_in(folder)) == 1
    monkeypatch.setattr(views, "_next", 0.0)
    views.epoch(proposal, {"epoch": 1})
    assert len(keys_in(folder)) == 2


def test_a_resumed_search_brings_the_views_up_to_date(folder: RunFolder) -> None:
    study = opened(folder.path)
    keys = [told(study, folder).key for _ in range(4)]
    views_of(folder, opened(folder.path))
    assert keys_in(folder) == keys
    points = ParetoFront(study.evaluations(), OBJECTIVES, BUDGET.limits).points
    assert {p.stem for p in folder.weights.iterdir()} == {e.key for e in points}


def test_the_table_and_the_front_follow_what_is_added(folder: RunFolder) -> None:
    study = opened(folder.path)
    for status, error in (("done", None), ("failed", 'it said "no",\nand ended'), ("done", None)):
        told(study, folder, status=status, error=error)
    for scores in ({}, {"test_accuracy": 0.25}):
        study.annotate(2, scores)
        evaluations = study.evaluations()
        front = ParetoFront(evaluations, OBJECTIVES, BUDGET.limits)
        folder.write_views(front, evaluations)
        assert json.loads(folder.front_file.read_text()) == front.to_json()
        table = pd.read_csv(folder.trials_file)
        assert list(table["status"]) == ["done", "failed", "done"]
        assert table["error"][1] == 'it said "no",\nand ended'
        assert table["hybrid_json"].map(json.loads).to_list() == [e.candidate.hybrid.to_json() for e in evaluations]
        assert [e.metrics["trainable_params"] for e in evaluations] == list(table["trainable_params"])
    assert list(table["test_accuracy"].fillna(-1)) == [-1, -1, 0.25]


def test_an_empty_front_is_written_too(folder: RunFolder) -> None:
    study = opened(folder.path)
    told(study, folder, status="failed", error="x")
    front = ParetoFront(study.evaluations(), OBJECTIVES, BUDGET.limits)
    folder.write_views(front, study.evaluations())
    assert json.loads(folder.front_file.read_text()) == front.to_json()
