"""A model is known again by what its files hold."""

from __future__ import annotations

import json
import shutil
import warnings
from pathlib import Path

import pytest
from tiny_project import experiment
from tiny_task import save_model

import autopeft
from autopeft.errors import AutopeftError
from autopeft.fingerprint import difference, model_bytes, model_files


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return save_model(tmp_path / "model")


def flip(path: Path, position: int) -> None:
    """Turn one bit of a file."""
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(bytes(content))


def edit(path: Path, field: str, value: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), field: value}))


def test_a_moved_model_is_the_same(model: Path, tmp_path: Path) -> None:
    before = model_files(str(model))
    shutil.move(model, tmp_path / "elsewhere")
    assert model_files(str(tmp_path / "elsewhere")) == before
    assert {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"} <= before.keys()
    assert model_bytes(str(tmp_path / "elsewhere")) > 10_000


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
def test_any_bit_makes_it_another(model: Path, name: str) -> None:
    before = model_files(str(model))
    for position in (0, (model / name).stat().st_size // 2, -1):
        flip(model / name, position)
        now = model_files(str(model))
        assert [file for file in now if now[file] != before[file]] == [name]
        assert difference(before, now) == f"{name} (there: {before[name][:12]}, now: {now[name][:12]})"
        flip(model / name, position)
    assert model_files(str(model)) == before


def test_what_nothing_is_loaded_from_does_not_count(model: Path) -> None:
    before = model_files(str(model))
    for name in ("README.md", ".gitattributes", "training_args.bin", "pytorch_model.bin", "tf_model.h5"):
        (model / name).write_text("x")
    (model / "onnx").mkdir()
    assert model_files(str(model)) == before
    (model / "vocab.txt").write_text("x")
    assert difference(before, model_files(str(model))) == "vocab.txt (there: no such file, now: 2d711642b726)"
    (model / "model.safetensors").unlink()
    assert "pytorch_model.bin" in model_files(str(model))


def test_a_model_of_the_hub_is_its_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    assert model_files("some/model") == {}
    kept = tmp_path / "models--some--model"
    (kept / "refs").mkdir(parents=True)
    for commit in ("a" * 40, "b" * 40):
        (kept / "snapshots" / commit).mkdir(parents=True)
        (kept / "snapshots" / commit / "config.json").write_text("{}")
        (kept / "refs" / "main").write_text(commit)
        assert model_files("some/model") == {"commit": commit}
    assert difference({"commit": "a" * 40}, {"commit": "b" * 40}) == f"commit (there: {'a' * 12}, now: {'b' * 12})"
    assert difference({}, {"commit": "b" * 40}) is None


def test_a_file_that_cannot_be_read_is_named(model: Path) -> None:
    (model / "merges.txt").symlink_to("merges.txt")
    (model / "vocab.json").symlink_to("/proc/self/mem")
    with pytest.raises(AutopeftError, match=r"vocab\.json: cannot be read"):
        model_files(str(model))


def test_evaluate_says_that_the_base_model_is_another(tmp_path: Path) -> None:
    result = autopeft.search(out=tmp_path / "run", quiet=True, **experiment(tmp_path, trials=1))
    exported = result.export("best", tmp_path / "best")
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        before = autopeft.evaluate(exported)
    edit(tmp_path / "model" / "config.json", "layer_norm_eps", 0.1)
    with pytest.warns(UserWarning, match=r"base model is not the one .* config\.json \(there: \w{12}, now: \w{12}\)"):
        assert autopeft.evaluate(exported).keys() == before.keys()
