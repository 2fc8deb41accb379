"""The PEFT type is registered whenever PEFT is imported; looking whether PEFT is there is no import."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

REGISTERED = "import peft; from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING as m; assert 'AUTOPEFT' in m"
LOOK = "import importlib.util as u; assert u.find_spec('peft') and u.find_spec('peft')"


@pytest.mark.parametrize("code", [f"import autopeft; {LOOK}; {REGISTERED}", f"import peft, autopeft; {REGISTERED}"])
def test_the_type_is_registered(code: str) -> None:
    clean = "import sys; assert not [f for f in sys.meta_path if 'autopeft' in type(f).__module__]"
    done = subprocess.run([sys.executable, "-c", f"{code}; {clean}"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]


def test_a_second_watch_and_a_failing_import(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from autopeft.on_import import after_import

    file = tmp_path / "autopeft_watched.py"
    file.write_text("raise ImportError('not yet')")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    before, seen = list(sys.meta_path), []
    for name in ("one", "two"):
        after_import("autopeft_watched", lambda name=name: seen.append(name))
    with pytest.raises(ImportError, match="not yet"):
        import autopeft_watched
    assert seen == []
    file.write_text("value = 1")
    import autopeft_watched

    assert (autopeft_watched.value, sorted(seen), sys.meta_path) == (1, ["one", "two"], before)
    after_import("autopeft_watched", lambda: seen.append("three"))
    assert seen[2:] == ["three"]
