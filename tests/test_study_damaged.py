"""A study's file that is not what was written: refused in one line that says what to do, or read as it was."""

from __future__ import annotations

import json
import os
import random
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from test_study import OBJECTIVES, evaluated, in_optuna, opened

from autopeft.candidate import Evaluation
from autopeft.errors import AutopeftError
from autopeft.searching import study_checks
from autopeft.searching.study import Study

#: What the line says to do.
REMEDY = "restore a copy of it, or use a new folder"
SETTINGS = {"training": {"epochs": 2}}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a study of finished, failed and open candidates, with test scores."""
    folder = tmp_path_factory.mktemp("whole")
    study = opened(folder, settings=SETTINGS)
    for i in range(5):
        proposal = study.ask()
        study.tell(evaluated(proposal, status="failed", error="x") if i == 3 else evaluated(proposal))
    study.annotate(1, {"test_accuracy": 0.75})
    study.remember("setup", {"pack": 4})
    with study.together():
        first = study.ask()
        study.ask(first.number)
    return folder


@pytest.fixture
def copy(whole: Path, tmp_path: Path) -> Path:
    """The same, to be damaged."""
    shutil.copy(whole / "study.db", tmp_path / "study.db")
    return tmp_path


def state(run: Path) -> tuple[list[Evaluation], dict[str, Any], list[Any]]:
    """All that a search depends on; opening for reading and for going on must say the same."""
    read = Study.read(run)
    study = opened(run, settings=SETTINGS)
    assert study.evaluations() == read
    return read, Study.read_header(run), study.pending_packs()


def refused(run: Path) -> list[str]:
    """What reading, and going on, say."""
    said = []
    for action in (lambda: Study.read(run), lambda: Study.read_header(run), lambda: opened(run, settings=SETTINGS)):
        with pytest.raises(AutopeftError) as error:
            action()
        said.append(str(error.value))
        assert "\n" not in said[-1]
        assert str(run) in said[-1]
    return said


def same_or_refused(run: Path, expected: object) -> bool:
    """Whether a damaged file was refused; what it says otherwise must be what was written."""
    before = (run / "study.db").read_bytes()
    try:
        found = state(run)
    except AutopeftError as error:
        said = str(error)
    else:
        assert found == expected
        return False
    assert said.count("\n") == 0
    assert (run / "study.db").read_bytes() == before, "left as it is"
    return True


def fuzz(whole: Path, run: Path, seed: int, times: int) -> int:
    """How many of so many damages were refused: flipped bits, flipped digits and letters, cuts."""
    content, rng, expected = (whole / "study.db").read_bytes(), random.Random(seed), state(whole)
    used = [i for i, byte in enumerate(content) if byte]
    letters = [i for i, byte in enumerate(content) if chr(byte).isalnum() and byte < 128]
    count = 0
    for _ in range(times):
        kind, damaged = rng.randrange(4), bytearray(content)
        if kind == 0:
            damaged = damaged[: rng.randrange(len(damaged))]
        elif kind == 1:
            place = rng.choice(letters)
            damaged[place] = ord(rng.choice("0123456789abcxyz"))
        else:
            damaged[rng.choice(used)] ^= 1 << rng.randrange(8)
        (run / "study.db").write_bytes(damaged)
        count += same_or_refused(run, expected)
    return count


def test_a_damaged_file_is_refused_or_read_as_it_was(whole: Path, tmp_path: Path) -> None:
    assert fuzz(whole, tmp_path, 0, 40) > 10


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_many_damaged_files(seed: int, whole: Path, tmp_path: Path) -> None:
    assert fuzz(whole, tmp_path, 1 + seed, 400) > 100


def changed(statement: str, *values: Any) -> Callable[[Path], None]:
    """Damage by SQL, which SQLite's own check does not see."""

    def change(path: Path) -> None:
        with closing(sqlite3.connect(path)) as connection:
            assert connection.execute(statement, values).rowcount != 0
            connection.commit()

    return change


def replaced(table: str, old: str, new: str) -> Callable[[Path], None]:
    return changed(f"UPDATE {table} SET value_json = replace(value_json, ?, ?)", old, new)


DAMAGES: dict[str, Callable[[Path], Any]] = {
    "cut": lambda path: os.truncate(path, 3 * 4096),
    "header of garbage": lambda path: path.write_bytes(b"\xff" * 100 + path.read_bytes()[100:]),
    "not a database": lambda path: path.write_text("not a database, and long enough for SQLite to see that"),
    "empty": lambda path: path.write_bytes(b""),
    "folder": lambda path: (path.unlink(), path.mkdir()),
    "no header": changed("DELETE FROM study_user_attributes WHERE key = 'header'"),
    "another budget": replaced("study_user_attributes", '"trainable_params": 1500', '"trainable_params": 1501'),
    "header of another form": changed("UPDATE study_user_attributes SET value_json = '[1]' WHERE key = 'header'"),
    "header without objectives": changed("UPDATE study_user_attributes SET value_json = '{}' WHERE key = 'header'"),
    "no study": changed("UPDATE studies SET study_name = 'mine'"),
    "no trials table": changed("DROP TABLE trials"),
    "a trial is missing": changed("DELETE FROM trials WHERE number = 2"),
    "the last trial is missing": changed("DELETE FROM trials WHERE number = 6"),
    "a trial of another study": changed("UPDATE trials SET study_id = 3 WHERE number = 6"),
    "a parameter": changed("UPDATE trial_params SET param_value = 1 - param_value WHERE trial_id = 7"),
    "a value": changed("UPDATE trial_values SET value = value + 1 WHERE trial_id = 2"),
    "a state": changed("UPDATE trials SET state = 'FAIL' WHERE number = 2"),
    "a score": replaced("trial_user_attributes", '"accuracy": 0.', '"accuracy": 1.'),
    "a path for a metric": replaced("trial_user_attributes", '"accuracy"', '"../accuracy"'),
    "a status": replaced("trial_user_attributes", '"done"', '"fine"'),
    "no JSON": replaced("trial_user_attributes", "{", ""),
    "no digests": changed("DELETE FROM trial_user_attributes WHERE key = 'digest'"),
    "a pack": changed("UPDATE trial_user_attributes SET value_json = '6' WHERE key = 'pack' AND trial_id = 7"),
    "test scores": changed("UPDATE study_user_attributes SET value_json = '{\"a\": \"b\"}' WHERE key LIKE 'metrics%'"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_is_damaged_is_said_with_what_to_do(damage: str, copy: Path) -> None:
    DAMAGES[damage](copy / "study.db")
    before = (copy / "study.db").read_bytes() if (copy / "study.db").is_file() else b""
    if damage == "test scores":
        with pytest.raises(AutopeftError, match=r"damaged.*restore a copy"):
            Study.read(copy)
    else:
        said = refused(copy)
        assert damage == "folder" or all(REMEDY in line for line in said)
    assert ((copy / "study.db").read_bytes() if before else b"") == before


def test_metrics_of_a_stranger_are_numbers_under_their_own_candidate(copy: Path) -> None:
    """Someone who knows how to sign what he has changed."""
    storage = study_checks.open_file(copy / "study.db")
    trial = storage.get_all_trials(storage.get_study_id_from_name("autopeft"))[0]
    other = storage.get_all_trials(storage.get_study_id_from_name("autopeft"))[1].user_attrs["evaluation"]
    own = trial.user_attrs["evaluation"]
    for wrong in (
        own | {"metrics": {"accuracy": "../x"}},
        own | {"number": 7},
        own | {"candidate": other["candidate"]},
        own | {"status": "fine"},
        own | {"curve": 3},
        own | {"more": 1},
        own | {"error": ["x"]},
        [1],
    ):
        trial.user_attrs["evaluation"] = wrong
        values = {"evaluation": wrong, "digest": study_checks.digest_of(trial)}
        for key, value in values.items():
            statement = "UPDATE trial_user_attributes SET value_json = ? WHERE key = ? AND trial_id = 1"
            changed(statement, json.dumps(value), key)(copy / "study.db")
        for action in (lambda: Study.read(copy), lambda: opened(copy, settings=SETTINGS)):
            with pytest.raises(AutopeftError, match=r"the evaluation of trial 0 is damaged.*; restore a copy"):
                action()


def test_a_newer_schema_is_said_as_what_it_is(copy: Path) -> None:
    changed("UPDATE alembic_version SET version_num = 'v9.9.9'")(copy / "study.db")
    assert all("of another version of Optuna" in line for line in refused(copy))


def test_a_file_that_was_deleted_is_no_new_search_of_the_folder(copy: Path) -> None:
    (copy / "study.db").unlink()
    with pytest.raises(AutopeftError, match="no study here"):
        Study.read(copy)


def test_a_dead_journal_is_not_taken_for_a_new_files(copy: Path) -> None:
    from autopeft.searching.study_checks import remove

    for suffix in ("-journal", "-wal", "-shm"):
        (copy / f"study.db{suffix}").write_bytes(b"x")
    remove(copy / "study.db")
    assert not list(copy.iterdir())


HOLD = """
import sqlite3, sys, time
connection = sqlite3.connect(sys.argv[1])
connection.execute("BEGIN EXCLUSIVE" if sys.argv[2] == "all" else "BEGIN IMMEDIATE")
print("held", flush=True)
time.sleep(100)
"""


@pytest.mark.parametrize("what", ["all", "writing"])
def test_a_locked_file_is_said_at_once(what: str, copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command = [sys.executable, "-c", HOLD, str(copy / "study.db"), what]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        try:
            with pytest.raises(AutopeftError, match="locked by another program"):
                opened(copy, settings=SETTINGS)
            if what == "all":
                with pytest.raises(AutopeftError, match="locked by another program"):
                    Study.read(copy)
                # Held a moment after it was looked at.
                monkeypatch.setattr(study_checks, "_check", lambda path: None)
                with pytest.raises(AutopeftError, match="locked by another program"):
                    Study.read(copy)
                monkeypatch.undo()
            else:
                assert len(Study.read(copy)) == 5
        finally:
            holder.kill()
    assert len(opened(copy, settings=SETTINGS).evaluations()) == 5


def test_a_file_that_is_replaced_while_the_search_runs_is_noticed(whole: Path, copy: Path) -> None:
    study = opened(copy, settings=SETTINGS)
    (copy / "study.db").unlink()
    shutil.copy(whole / "study.db", copy / "study.db")
    with pytest.raises(AutopeftError, match="was replaced while the search ran"):
        study.ask()
    (copy / "study.db").unlink()
    with pytest.raises(AutopeftError, match="cannot be written"):
        study.ask()
    assert not (copy / "study.db").exists()


@pytest.mark.parametrize("where", ["ask", "tell", "annotate"])
def test_what_cannot_be_written_is_one_line_and_nothing_is_half_there(where: str, copy: Path) -> None:
    study, before = opened(copy, settings=SETTINGS), state(copy)
    (first, second), *_ = study.pending_packs()
    # A page limit is to SQLite what a full disk is.
    connections = [study._file._file.engine.connect() for _ in range(5)]
    for connection in connections:
        connection.exec_driver_sql(f"PRAGMA max_page_count = {os.path.getsize(copy / 'study.db') // 4096}")
        connection.rollback()
    for connection in connections:
        connection.close()
    long = tuple({"loss": 1.0 / i, "epoch": i} for i in range(1, 900))
    actions: dict[str, Callable[[], Any]] = {
        "ask": lambda: [study.ask() for _ in range(400)],
        "tell": lambda: study.tell_all([evaluated(first), evaluated(second, curve=long)]),
        "annotate": lambda: study.annotate(0, {f"test_{i}": i / 7 for i in range(9000)}),
    }
    with pytest.raises(AutopeftError, match=r"study\.db: cannot be written .*full.*same command"):
        actions[where]()
    again = opened(copy, settings=SETTINGS)
    assert again.evaluations() == before[0]
    if where == "tell":
        assert again.pending_packs() == before[2]
        again.tell_all([evaluated(first), evaluated(second, curve=long)])
        assert again.finished == 7


def test_an_old_study_is_taken_and_compared_from_then_on(copy: Path) -> None:
    """Of version 0.1: no format, no digests, no settings."""
    statements = {
        "DELETE FROM trial_user_attributes WHERE key = 'digest'": (),
        "DELETE FROM study_user_attributes WHERE key NOT IN ('header', 'metrics of trial 1')": (),
        "UPDATE study_user_attributes SET value_json = ? WHERE key = 'header'": (
            json.dumps({k: v for k, v in Study.read_header(copy).items() if k not in ("format", "training")}),
        ),
        "UPDATE study_user_attributes SET value_json = ? WHERE key LIKE 'metrics%'": ('{"test_accuracy": 0.75}',),
    }
    before = Study.read(copy), opened(copy, settings=SETTINGS).pending()
    for statement, values in statements.items():
        changed(statement, *values)(copy / "study.db")
    assert Study.read(copy) == before[0]
    with pytest.raises(AutopeftError, match=r"sampler\.name"):
        opened(copy, settings=SETTINGS, sampler="random")
    study = opened(copy, settings=SETTINGS)
    assert (study.evaluations(), study.pending()) == before
    with pytest.raises(AutopeftError, match=r"training\.epochs \(there: 2, now: 3\)"):
        opened(copy, settings={"training": {"epochs": 3}})
    DAMAGES["a score"](copy / "study.db")
    refused(copy)


def test_settings_without_a_result_can_be_mended(tmp_path: Path) -> None:
    opened(tmp_path, settings=SETTINGS).ask()
    other = opened(tmp_path, settings={"training": {"epochs": 3}}, objectives=(OBJECTIVES[0],))
    assert other.pending() == []
    assert other.ask().number == 0
    assert Study.read_header(tmp_path)["training"] == {"epochs": 3}


def test_trials_of_others_are_theirs(copy: Path) -> None:
    """Begun or ended in the same file by hand: neither proposals nor evaluations."""
    theirs = in_optuna(copy)
    theirs.ask()
    theirs.tell(theirs.ask(), [0.5, 3])
    study = opened(copy, settings=SETTINGS)
    assert [p.number for p in study.pending()] == [5, 6]
    assert [e.number for e in Study.read(copy)] == list(range(5))
