from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState

from autopeft.anatomy import ModelShape
from autopeft.budget import Budget
from autopeft.candidate import Evaluation, Job
from autopeft.errors import AutopeftError
from autopeft.searching.objective import Objective
from autopeft.searching.study import Proposal, Study
from autopeft.space import SearchSpace

SITES = dict.fromkeys("qkvo", (64, 64)) | {"up": (64, 256), "down": (256, 64)}
TINY = ModelShape("bert", 2, 64, 256, 2, 2, 32, SITES, 100_000)
SPACE = SearchSpace.load({"blocks": {"lora": {"rank": [0, 2, 4, 8]}, "prefix": {"length": [0, 1, 4]}}}, TINY)
BUDGET = Budget({"trainable_params": 1500})
OBJECTIVES = (Objective.of("accuracy"), Objective.of("trainable_params"))
SAMPLER = {"name": "tpe", "startup": 2}


def opened(run: Path, **changes: Any) -> Study:
    settings = {"space": SPACE, "budget": BUDGET, "objectives": OBJECTIVES, "sampler": SAMPLER} | changes
    return Study.open(run, **settings)


def evaluated(proposal: Proposal, **changes: Any) -> Evaluation:
    params = proposal.candidate.hybrid.num_params(TINY)
    fields: dict[str, Any] = {
        "status": "done",
        "metrics": {"accuracy": params / (params + 500), "trainable_params": params},
        "curve": ({"loss": 1.0}, {"loss": 0.5}),
        "seconds": 1.5,
        "seed": 7,
    }
    return Evaluation(proposal.candidate, number=proposal.number, repaired=proposal.repaired, **(fields | changes))


def in_optuna(run: Path) -> optuna.Study:
    """The same study, by Optuna's own means."""
    return optuna.load_study(study_name="autopeft", storage=f"sqlite:///{run / 'study.db'}")


def test_what_is_told_is_read_back(tmp_path: Path) -> None:
    study = opened(tmp_path)
    told = [study.tell(evaluated(study.ask())) for _ in range(3)]
    failed = study.ask()
    told.append(study.tell(evaluated(failed, status="failed", error="out of memory", metrics={"trainable_params": 3})))
    assert study.evaluations() == told == Study.read(tmp_path)
    assert study.finished == 4
    assert told[3].error == "out of memory"
    assert Study.read_header(tmp_path)["budget"] == {"trainable_params": 1500}


@pytest.mark.parametrize("metrics", [{"accuracy": math.nan, "trainable_params": 1}, {"trainable_params": 1}])
def test_an_objective_that_is_no_number_is_a_failure(tmp_path: Path, metrics: dict) -> None:
    study = opened(tmp_path)
    told = study.tell(evaluated(study.ask(), metrics=metrics))
    assert (told.status, told.error) == ("failed", "accuracy is nan")
    assert study.evaluations()[0].status == "failed"
    assert study.evaluations()[0].metrics["trainable_params"] == 1


def test_metrics_are_added_to_finished_evaluations(tmp_path: Path) -> None:
    study = opened(tmp_path)
    done = study.tell(evaluated(study.ask()))
    assert study.evaluations() == [done]
    study.annotate(0, {"test_accuracy": 0.5})
    study.annotate(0, {"test_f1": 0.25})
    assert study.evaluations()[0].metrics == {**done.metrics, "test_accuracy": 0.5, "test_f1": 0.25}
    assert Study.read(tmp_path) == study.evaluations()


def test_telling_twice_or_unasked_is_refused(tmp_path: Path) -> None:
    study = opened(tmp_path)
    proposal = study.ask()
    study.tell(evaluated(proposal))
    with pytest.raises(AutopeftError, match="trial 0 was not asked for, or has been told already"):
        study.tell(evaluated(proposal))
    with pytest.raises(AutopeftError, match="trial 5 was not asked for"):
        study.tell(evaluated(Proposal(5, proposal.job, False)))


def test_open_proposals_of_a_killed_run_are_pending(tmp_path: Path) -> None:
    study = opened(tmp_path)
    study.tell(evaluated(study.ask()))
    left = [study.ask(), study.ask()]
    assert study.pending() == []
    resumed = opened(tmp_path)
    assert resumed.pending() == left
    resumed.tell(evaluated(left[1]))
    assert resumed.pending() == left[:1]
    fresh = resumed.ask()
    assert fresh.number == 3
    assert resumed.pending() == left[:1]


def test_a_resumed_search_proposes_what_the_undisturbed_one_does(tmp_path: Path) -> None:
    study = opened(tmp_path / "whole")
    whole = [study.tell(evaluated(study.ask())) for _ in range(6)]
    for _ in range(6):
        study = opened(tmp_path / "killed")
        proposal = next(iter(study.pending()), None) or study.ask()
        if proposal.number == 3 and len(study.evaluations()) == 3:
            study = opened(tmp_path / "killed")
            proposal = study.pending()[0]
        study.tell(evaluated(proposal))
    assert Study.read(tmp_path / "killed") == whole


def test_killed_in_the_middle_of_asking(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = opened(tmp_path / "whole")
    whole = [study.tell(evaluated(study.ask())) for _ in range(4)]

    study = opened(tmp_path / "killed")
    for _ in range(3):
        study.tell(evaluated(study.ask()))

    def killed(space: SearchSpace, trial: Any) -> None:
        space.dimensions[0].suggest(trial)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(SearchSpace, "suggest", killed)
        with pytest.raises(KeyboardInterrupt):
            study.ask()
    assert len(in_optuna(tmp_path / "killed").trials) == 3
    resumed = opened(tmp_path / "killed")
    assert resumed.pending() == []
    assert resumed.finished == 3
    resumed.tell(evaluated(resumed.ask()))
    assert Study.read(tmp_path / "killed") == whole


def test_an_ask_that_failed_is_made_up_for_by_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = opened(tmp_path / "other").ask()
    study = opened(tmp_path / "run")
    with monkeypatch.context() as patched:
        patched.setattr(SearchSpace, "suggest", None)
        with pytest.raises(TypeError):
            study.ask()
    assert study.ask() == expected


def test_the_file_is_what_optuna_would_have_written(tmp_path: Path) -> None:
    study = opened(tmp_path)
    done, failed, running = study.ask(), study.ask(), study.ask()
    study.tell(evaluated(done))
    study.tell(evaluated(failed, status="failed", error="x"))
    first, second, third = in_optuna(tmp_path).trials
    assert [t.state for t in (first, second, third)] == [TrialState.COMPLETE, TrialState.FAIL, TrialState.RUNNING]
    assert first.values == [first.user_attrs["evaluation"]["metrics"][o.metric] for o in OBJECTIVES]
    assert SPACE.decode(third.params) == running.candidate
    assert third.distributions == SPACE.distributions()
    assert third.user_attrs.keys() == {"repaired", "key", "pack", "digest"}
    assert (third.user_attrs["repaired"], third.user_attrs["key"]) == (running.repaired, running.candidate.key)
    assert first.datetime_start < first.datetime_complete
    assert third.datetime_complete is None


def test_what_was_enqueued_with_optuna_goes_first(tmp_path: Path) -> None:
    opened(tmp_path).ask()
    chosen = {d.name: 0 for d in SPACE.dimensions} | {SPACE.dimensions[0].name: 1}
    in_optuna(tmp_path).enqueue_trial(chosen)
    study = opened(tmp_path)
    proposal = study.ask()
    assert proposal == Proposal(1, Job(SPACE.decode(chosen)), False, pack=1)
    assert opened(tmp_path).pending()[1] == proposal
    study.tell(evaluated(proposal))
    assert in_optuna(tmp_path).trials[1].params == chosen
    assert [e.number for e in Study.read(tmp_path)] == [1]


def test_a_second_program_that_writes_is_noticed(tmp_path: Path) -> None:
    study = opened(tmp_path)
    study.ask()
    in_optuna(tmp_path).ask()
    with pytest.raises(AutopeftError, match="another program has added trials"):
        study.ask()


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"budget": Budget({"trainable_params": 999})}, r"budget\.trainable_params \(there: 1500, now: 999\)"),
        ({"objectives": (OBJECTIVES[0],)}, r"objectives \(there: \['accuracy', 'trainable_params'\], now: \['acc"),
        ({"sampler": "random"}, r"sampler\.name \(there: 'tpe', now: 'random'\)"),
        ({"settings": {"training": {"epochs": 2}}}, r"training\.epochs \(there: 1, now: 2\)"),
        ({"fingerprint": "other data"}, "the task's data are not those"),
        (
            {"space": SearchSpace.load({"blocks": {"lora": {"rank": [0, 2]}}}, TINY)},
            r"space\.blocks\.lora\.rank \(there",
        ),
    ],
)
def test_a_folder_with_other_settings_is_refused(tmp_path: Path, changes: dict, named: str) -> None:
    study = opened(tmp_path, settings={"training": {"epochs": 1}})
    study.tell(evaluated(study.ask()))
    before = (tmp_path / "study.db").read_bytes()
    with pytest.raises(AutopeftError, match=named):
        opened(tmp_path, **{"settings": {"training": {"epochs": 1}}, **changes})
    assert (tmp_path / "study.db").read_bytes() == before


def test_reading_what_is_no_study(tmp_path: Path) -> None:
    with pytest.raises(AutopeftError, match="no study here"):
        Study.read(tmp_path)
    (tmp_path / "study.db").write_text("not a database, and long enough for SQLite to see that")
    with pytest.raises(AutopeftError, match="not a study of autopeft"):
        Study.read(tmp_path)


def test_one_objective(tmp_path: Path) -> None:
    study = opened(tmp_path, objectives=(Objective.of("mse"),))
    told = [study.tell(evaluated(study.ask(), metrics={"mse": 1.0 / (i + 1)})) for i in range(3)]
    assert Study.read(tmp_path) == told


def test_usual_directions() -> None:
    names = ("accuracy", "f1", "spearman", "mse", "loss", "trainable_params", "stored_bytes")
    assert [Objective.of(n).direction for n in names] == ["max"] * 3 + ["min"] * 4
