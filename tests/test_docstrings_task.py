from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from autopeft.errors import AutopeftError
from autopeft.tasks import TaskData, task_from
from autopeft.tasks._library_sources import LIBRARIES

ROOT = Path(__file__).parents[1]


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setenv("AUTOPEFT_CACHE", str(folder))
    return folder


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder on the import path with two packages, each of which fails when it is imported."""
    root = tmp_path / "libraries"
    for name in ("alpha_toy", "beta_toy"):
        (root / name / "tests").mkdir(parents=True)
        functions = [
            f'def f{i}():\n    """Text {i} of the {name[:4]} kind, folded\n    here.\n\n    More."""\n'
            for i in range(30)
        ]
        (root / name / "__init__.py").write_text("raise RuntimeError('imported')\n")
        (root / name / "code.py").write_text("\n".join(functions))
        (root / name / "shared.py").write_text('"""A text that stands in both of the packages."""\n')
        (root / name / "own.py").write_text(f'"""A text that names {name.upper()}, its package."""\n')
        (root / name / "short.py").write_text('"""Too short."""\n')
        (root / name / "broken.py").write_text("def broken(:\n")
        (root / name / "nothing.py").write_bytes(b"\0")
        (root / name / "deep.py").write_text("(" * 20_000)
        os.mkfifo(root / name / "pipe.py")  # would never end
        (root / name / "tests" / "test_x.py").write_text(f'"""A text in the tests of {name[:4]}, not wanted."""\n')
    monkeypatch.syspath_prepend(str(root))
    return root


TOY = {"name": "docstrings", "libraries": ["beta_toy", "alpha_toy"], "per_class": 20}


def load(**fields: Any) -> TaskData:
    return task_from({**TOY, **fields}).load()


def texts(data: TaskData) -> list[str]:
    return [text for part in (data.train, data.validation, data.test) for text in part.first]


def complaint(**fields: Any) -> str:
    with pytest.raises(AutopeftError) as caught:
        load(**fields)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.usefixtures("toy", "cache")
def test_texts_are_whole_first_paragraphs_of_one_library_only() -> None:
    data = load()
    assert data.label_names == ("beta_toy", "alpha_toy")
    assert (len(data.train), len(data.validation), len(data.test)) == (28, 6, 6)
    assert len(set(texts(data))) == 40
    for part in (data.train, data.validation, data.test):
        assert len(set(Counter(part.labels).values())) == 1
        for text, label in zip(part.first, part.labels, strict=True):
            assert text.startswith("Text ")
            assert text.endswith(f"of the {data.label_names[int(label)][:4]} kind, folded here.")


@pytest.mark.usefixtures("toy")
def test_the_same_again_from_the_cache_and_from_the_sources(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = load()
    assert [file.suffix for file in cache.iterdir()] == [".json"]
    monkeypatch.setenv("AUTOPEFT_CACHE", str(tmp_path / "another"))
    assert load() == first
    monkeypatch.setenv("AUTOPEFT_CACHE", str(cache))
    kept = next(cache.iterdir())
    changed = {name: [f"kept {name} {i}" for i in range(20)] for name in ("beta_toy", "alpha_toy")}
    kept.write_text(json.dumps(changed))
    assert texts(load())[0].startswith("kept ")
    assert load(seed=1).fingerprint != first.fingerprint


@pytest.mark.usefixtures("toy")
@pytest.mark.parametrize(
    "damage",
    [
        "",
        "{",
        "[]",
        '{"beta_toy": []}',
        '{"beta_toy": 1, "alpha_toy": 2}',
        json.dumps({"beta_toy": ["short"], "alpha_toy": ["short"]}),
        json.dumps({"beta_toy": [1] * 20, "alpha_toy": [2] * 20}),
    ],
)
def test_a_damaged_cache_is_made_anew(cache: Path, damage: str) -> None:
    first = load()
    kept = next(cache.iterdir())
    whole = kept.read_text()
    kept.write_text(damage)
    assert load() == first
    assert kept.read_text() == whole


@pytest.mark.usefixtures("toy")
def test_a_cache_that_cannot_be_written_is_no_error(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = load()
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("AUTOPEFT_CACHE", str(tmp_path / "file" / "below"))
    assert load() == first
    cache.chmod(stat.S_IRUSR | stat.S_IXUSR)
    monkeypatch.setenv("AUTOPEFT_CACHE", str(cache))
    assert load() == first
    cache.chmod(stat.S_IRWXU)


@pytest.mark.usefixtures("toy")
def test_the_cache_is_in_the_users_cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AUTOPEFT_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    load()
    assert len(list((tmp_path / "xdg" / "autopeft").iterdir())) == 1
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    load()
    assert len(list((tmp_path / "home" / ".cache" / "autopeft").iterdir())) == 1


@pytest.mark.usefixtures("toy", "cache")
def test_what_cannot_be_had_is_said() -> None:
    assert "library 'alpha_tpy' is not installed; leave it out" in complaint(libraries=["beta_toy", "alpha_tpy"])
    assert "only 30 fitting texts, 31 are wanted; lower 'per_class'" in complaint(per_class=31)
    assert "library 'json5x'" in complaint(libraries=["json5x", "alpha_toy"])
    assert "is no package of Python files" in complaint(libraries=["sys", "alpha_toy"])
    assert "at least two libraries" in complaint(libraries=["alpha_toy", "alpha_toy"])
    assert "'a.b' is no top-level import name" in complaint(libraries=["alpha_toy", "a.b"])


def test_the_default_is_ready_within_seconds_silent_and_imports_no_library(tmp_path: Path) -> None:
    code = (
        "import sys; from autopeft.tasks import task_from; data = task_from('docstrings').load(); "
        f"loaded = [name for name in {LIBRARIES!r} if name in sys.modules and name != 'numpy']; "
        "print(len(data.train), len(data.validation), len(data.test), data.readout.outputs, loaded)"
    )
    start = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-W", "always::SyntaxWarning", "-c", code],
        cwd=ROOT,
        env={**os.environ, "AUTOPEFT_CACHE": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "2520 540 540 12 []"
    assert done.stderr == ""
    assert time.monotonic() - start < 60  # some 4 s on one free core
