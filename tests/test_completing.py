"""What a shell is given when a word is to be completed, as bash asks for it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A folder with two searches, one of which has a front, an export and an experiment."""
    for run in ("runs/one", "runs/two", "lone/only"):
        (tmp_path / run).mkdir(parents=True)
        (tmp_path / run / "experiment.yaml").write_text("name: x\n")
    (tmp_path / "runs" / "one" / "front.json").write_text(json.dumps({"points": [{"key": "0123"}, {"key": "0f"}]}))
    (tmp_path / "runs" / "two" / "front.json").write_text("[")
    (tmp_path / "out" / "best").mkdir(parents=True)
    (tmp_path / "out" / "best" / "hybrid.json").write_text("{}")
    (tmp_path / ".hidden").mkdir()
    (tmp_path / "mine.yaml").write_text("name: x\n")
    return tmp_path


def completed(folder: Path, line: str) -> set[str]:
    """The choices for the last word of a line."""
    words = line.split(" ")
    asked = {"_AUTOPEFT_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(len(words) - 1)}
    command = shutil.which("autopeft", path=str(Path(sys.executable).parent))
    if command is None:
        pytest.skip("the command is not installed beside this Python")
    found = subprocess.run([command], env=os.environ | asked, cwd=folder, capture_output=True, text=True, check=False)
    assert not found.stderr
    return set(found.stdout.split())


@pytest.mark.parametrize(
    ("line", "choices"),
    [
        ("autopeft exp", {"explain", "export"}),
        ("autopeft search qu", {"quickstart", "quickstart-chat"}),
        ("autopeft search m", {"mine.yaml"}),
        ("autopeft front run", {"runs/one", "runs/two"}),
        ("autopeft front lo", {"lone/only"}),
        ("autopeft watch runs/o", {"runs/one"}),
        ("autopeft evaluate ou", {"out/best"}),
        ("autopeft predict out/", {"out/best"}),
        ("autopeft show runs/one ", {"best", "knee", "0123", "0f"}),
        ("autopeft show runs/two ", {"best", "knee"}),
        ("autopeft show nowhere k", {"knee"}),
        ("autopeft export runs/one --pick 0", {"0123", "0f"}),
        ("autopeft export runs/one --format lora", {"lora", "lora-padded"}),
        ("autopeft list sa", {"samplers"}),
        ("autopeft front nowhere/", set()),
    ],
)
def test_words_are_completed(line: str, choices: set[str], project: Path) -> None:
    assert completed(project, line) == choices


def test_hidden_folders_are_not_offered(project: Path) -> None:
    assert completed(project, "autopeft front ") == {"lone/", "out/", "runs/"}
