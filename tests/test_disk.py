"""A run folder that can't be written: one line, nothing half there, and the search goes on when it can."""

from __future__ import annotations

import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from kill_points import arm, ended
from test_resumed import FIELDS, assert_same, search, undisturbed  # noqa: F401 - fixtures
from tiny_project import not_measured

from autopeft.errors import AutopeftError
from autopeft.result import SearchResult

Mounted = Callable[[str], None]


@pytest.fixture(scope="module", autouse=True)
def _setup() -> Iterator[None]:
    with not_measured():
        yield


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Mounted]:
    """A small file system at `tmp_path / "disk"`; called with options it is mounted again with these."""
    place = tmp_path / "disk"
    place.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4k", "tmpfs", str(place)], check=False).returncode:
        pytest.skip("a file system can be mounted by root only")
    try:
        yield lambda options: subprocess.run(["mount", "-o", f"remount,{options}", str(place)], check=True) and None
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


@pytest.mark.slow
@pytest.mark.parametrize("size", ["4k", "60k", "112k", "120k", "128k", "136k", "144k", "152k", "160k", "200k", "3m"])
def test_a_full_disk_is_one_line_and_the_search_goes_on_with_room(
    size: str,
    disk: Mounted,
    tmp_path: Path,
    project: Path,
    undisturbed: SearchResult,  # noqa: F811
) -> None:
    disk(f"size={size}")
    with pytest.raises(AutopeftError, match=r"No space left on device|disk is full|disk I/O error") as error:
        search(project, tmp_path / "disk/run")
    assert str(error.value).count("\n") == 0
    assert str(tmp_path / "disk/run") in str(error.value)
    assert not list((tmp_path / "disk/run").rglob(".*partial*"))
    disk("size=50m")
    assert_same(search(project, tmp_path / "disk/run"), undisturbed, but_weights=True)


@pytest.mark.slow
def test_a_folder_that_is_read_only(
    disk: Mounted,
    tmp_path: Path,
    project: Path,
    undisturbed: SearchResult,  # noqa: F811
) -> None:
    disk("size=50m")
    point = "the second pack, its first epoch"
    assert ended(project, tmp_path / "disk/run", point, signal.SIGKILL, FIELDS) == -signal.SIGKILL
    disk("ro")
    with pytest.raises(AutopeftError, match=r"cannot be written \(Read-only"):
        search(project, tmp_path / "disk/run")
    assert len(SearchResult.open(tmp_path / "disk/run").evaluations) == 3
    disk("rw")
    assert_same(search(project, tmp_path / "disk/run"), undisturbed)


def test_a_folder_that_is_taken_away(
    tmp_path: Path,
    project: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with monkeypatch.context() as patched:
        arm("the second pack, its first epoch", lambda: shutil.rmtree(tmp_path / "run"), patched)
        with pytest.raises(AutopeftError, match=r"run/.*: cannot be written \(No such file or directory\)"):
            search(project, tmp_path / "run")
