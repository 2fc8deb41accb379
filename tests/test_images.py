"""Images: how they are read, and models of them in the engine.

Shapes: N images.
"""

from __future__ import annotations

import base64
import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pytest
import torch
from peft import PeftModel
from PIL import Image
from pyarrow import parquet
from tiny_images import CLASSES, encoded, image, save_image_model, save_images
from tiny_models import LAYERS, perturb
from tiny_packs import SETTINGS, Bench, mixed
from tiny_project import experiment, not_measured
from transformers import AutoImageProcessor, AutoModelForImageClassification

import autopeft
from autopeft.attaching import Attachment
from autopeft.candidate import Candidate
from autopeft.engine import images
from autopeft.engine.data import collate
from autopeft.engine.encoding import encoded_task, longest
from autopeft.engine.pack import Pack
from autopeft.errors import AutopeftError
from autopeft.experiment import Experiment
from autopeft.models import find_model
from autopeft.session import Session
from autopeft.tasks import TaskData, task_from

SIZES = {"train": 48, "val": 18, "test": 18}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("AUTOPEFT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def load(**fields: Any) -> TaskData:
    return task_from({"name": "images", **fields}).load()


@pytest.fixture(params=["vit", pytest.param("dinov2", marks=pytest.mark.slow)])
def bench(request: pytest.FixtureRequest, tmp_path: Path) -> Bench:
    source = find_model(str(save_image_model(tmp_path / "model", request.param)))
    data = load(path=str(save_images(tmp_path / "data", SIZES)))
    settings = SETTINGS.model_copy(update={"epochs": 1})
    return Bench.of(source, encoded_task(data, source, 128), "autopeft_sdpa", settings)


# --- reading ---------------------------------------------------------------------------------------------------------


def test_folders_files_and_sets_hold_the_same(tmp_path: Path) -> None:
    folder = save_images(tmp_path / "data", {"train": 6, "validation": 3, "test": 3})
    rows = [
        {"image": encoded(path.parent.name, 0) and path.read_bytes(), "label": path.parent.name}
        for path in sorted((folder / "train").rglob("*.png"))
    ]
    table = {"image": [{"bytes": row["image"], "path": None} for row in rows], "label": [row["label"] for row in rows]}
    parquet.write_table(pyarrow.table(table), tmp_path / "train.parquet", row_group_size=2)
    lines = [json.dumps({"image": {"bytes": base64.b64encode(r["image"]).decode()}, "label": r["label"]}) for r in rows]
    (tmp_path / "bytes.jsonl").write_text("\n".join(lines))
    paths = sorted((folder / "train").rglob("*.png"))
    lines = [json.dumps({"image": str(p.relative_to(tmp_path)), "label": p.parent.name}) for p in paths]
    (tmp_path / "paths.jsonl").write_text("\n".join(lines))
    others = {"validation": str(folder / "validation"), "test": str(folder / "test")}
    whole = load(path=str(folder))
    assert whole.label_names == CLASSES
    assert len(whole.train) == 6
    for name in ("train.parquet", "bytes.jsonl", "paths.jsonl"):
        found = load(train=str(tmp_path / name), **others)
        assert found.fingerprint == whole.fingerprint
        assert [p.read() for p in found.train.pictures or ()] == [row["image"] for row in rows]


def test_image_sets_are_read(tmp_path: Path) -> None:
    import datasets

    features = datasets.Features({"img": datasets.Image(), "label": datasets.ClassLabel(names=list(CLASSES[::-1]))})
    rows = {"img": [image(CLASSES[i % 3], i) for i in range(12)], "label": [[2, 1, 0][i % 3] for i in range(12)]}
    datasets.DatasetDict(train=datasets.Dataset.from_dict(rows, features)).save_to_disk(str(tmp_path / "set"))
    fields = {"name": "hub_images", "path": str(tmp_path / "set"), "image": "img"}
    data = task_from(fields).load()
    assert data.label_names == CLASSES[::-1]
    source = find_model(str(save_image_model(tmp_path / "model")))
    made = encoded_task(data, source, 128)
    assert (len(made.train), len(made.validation), len(made.test)) == (6, 3, 3)
    with pytest.raises(AutopeftError, match=r"no text column 'image'"):
        task_from({**fields, "image": "image"}).load()


def test_pixels_are_those_of_the_image_processor(bench: Bench, tmp_path: Path, cache: Path) -> None:
    batch = collate(bench.data.train, np.array([5, 0]), 0)
    files = sorted((tmp_path / "data" / "train").rglob("*.png"))
    processor = AutoImageProcessor.from_pretrained(tmp_path / "model", backend="pil")
    wanted = processor([Image.open(files[i]) for i in (5, 0)], return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(batch.inputs["pixel_values"], wanted, rtol=1e-5, atol=1e-6)
    assert batch.shape == (2, 5)
    assert len(list(cache.glob("images-*.npy"))) == 3
    # A copy in another process opens the file, and holds nothing.
    assert len(pickle.dumps(bench.data.train.pixels)) < 1_000  # type: ignore[attr-defined]
    again = pickle.loads(pickle.dumps(bench.data.train))
    torch.testing.assert_close(collate(again, np.array([5, 0]), 0).inputs, batch.inputs)
    torch.testing.assert_close(collate(again.take(np.array([5, 0])), np.arange(2), 0).inputs, batch.inputs)


def test_images_are_decoded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    source = find_model(str(save_image_model(tmp_path / "model")))
    data = load(path=str(save_images(tmp_path / "data", {"train": 12})))
    first = encoded_task(data, source, 128)
    monkeypatch.setattr(images.ImageReader, "decoded", None)
    again = encoded_task(data, source, 128)
    assert np.array_equal(first.train.pixels.stored, again.train.pixels.stored)  # type: ignore[attr-defined]
    (tmp_path / "full").write_text("")
    monkeypatch.setenv("AUTOPEFT_CACHE", str(tmp_path / "full"))
    with pytest.raises(AutopeftError, match=r"images cannot be kept .* set AUTOPEFT_CACHE to a folder with room"):
        encoded_task(data, source, 128)


def broken_png(wide: int, high: int) -> bytes:
    """A header that promises so many pixels."""
    data = bytearray(encoded("dark", 0))
    data[16:24] = wide.to_bytes(4, "big") + high.to_bytes(4, "big")
    import zlib

    data[29:33] = zlib.crc32(bytes(data[12:29])).to_bytes(4, "big")
    return bytes(data)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"no image", r"cannot be read as an image \(cannot identify"),
        (encoded("dark", 0)[:90], "cannot be read as an image"),
        (broken_png(60_000, 60_000), "cannot be read as an image .Image size .3600000000 pixels. exceeds limit"),
        (broken_png(9_000, 9_000), "an image of 9,000 x 9,000 pixels is too large"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "cannot be read as an image"),
    ],
)
def test_what_is_no_image_is_said_with_its_row(content: bytes, said: str, tmp_path: Path) -> None:
    folder = save_images(tmp_path / "data", {"train": 12})
    (folder / "train" / "light" / "1.png").write_bytes(content)
    data = load(path=str(folder))
    source = find_model(str(save_image_model(tmp_path / "model")))
    with pytest.raises(AutopeftError, match=said) as error:
        encoded_task(data, source, 128)
    assert "image 5 (" in str(error.value)
    assert "light/1.png)" in str(error.value)
    assert "\n" not in str(error.value)


def test_what_is_wrong_with_rows_and_models_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, model = save_images(tmp_path / "data", {"train": 12}), save_image_model(tmp_path / "model")
    rows = tmp_path / "rows.jsonl"
    wrong: dict[str, tuple[dict[str, Any], str]] = {
        "none": ({"label": "a"}, r"rows.jsonl:1: no text column 'image'"),
        "empty": ({"image": None, "label": "a"}, r"rows.jsonl:1: image column 'image' is empty"),
        "list": ({"image": [1], "label": "a"}, r"rows.jsonl:1: image column 'image' holds no image but \[1\]"),
        "base64": ({"image": {"bytes": "%"}, "label": "a"}, r"rows.jsonl:1: column 'image': its bytes are not base64"),
        "gone": ({"image": "gone.png", "label": "a"}, "gone.png: cannot be read .No such file"),
        "folder": ({"image": ".", "label": "a"}, "is no file"),
        "label": ({"image": "gone.png"}, r"no label column 'label'"),
    }
    for row, said in wrong.values():
        rows.write_text(json.dumps(row))
        with pytest.raises(AutopeftError, match=said):
            load(train=str(rows))
    with pytest.raises(AutopeftError, match="no such file or folder"):
        load(train=str(tmp_path / "nowhere"))
    with pytest.raises(AutopeftError, match="no folders in it"):
        load(path=str(folder / "train" / "dark"))
    with pytest.raises(AutopeftError, match="give either 'path'"):
        load()
    with pytest.raises(AutopeftError, match="'multi_label' is for texts"):
        load(path=str(folder), readout="multi_label")
    monkeypatch.setattr("autopeft.tasks._pictures.MOST_BYTES", 100)
    with pytest.raises(AutopeftError, match="bytes are more than an image has"):
        load(path=str(folder))
    monkeypatch.undo()
    monkeypatch.setenv("AUTOPEFT_CACHE", str(tmp_path / "cache"))
    settings = json.loads((model / "preprocessor_config.json").read_text())
    for changes, said in (
        ({"size": {"height": 12, "width": 12}}, r"makes images of \[3, 12, 12\], which the model cannot take"),
        ({"size": {"height": 10**6, "width": 8}}, "sides of more than 4,096 pixels"),
        ({"image_std": [0.0, 1.0, 1.0]}, "image_mean and image_std are no numbers a channel"),
        ({"do_resize": False}, r"train, image 1 .*: becomes \[3, 12, 14\], and others|which the model cannot take"),
    ):
        (model / "preprocessor_config.json").write_text(json.dumps({**settings, **changes}))
        with pytest.raises(AutopeftError, match=said):
            encoded_task(load(path=str(folder)), find_model(str(model)), 128)
    (model / "preprocessor_config.json").unlink()
    with pytest.raises(AutopeftError, match="its image processor cannot be loaded from this folder"):
        encoded_task(load(path=str(folder)), find_model(str(model)), 128)


def test_images_and_texts_are_not_for_each_others_models(tmp_path: Path) -> None:
    task = {"name": "images", "path": str(save_images(tmp_path / "data", {"train": 12}))}
    fields = experiment(tmp_path, task=task)
    with pytest.raises(AutopeftError, match=r"model '.*': reads texts; take a model of images"):
        Session(Experiment.of(fields, "test"))
    fields = experiment(tmp_path, model=str(save_image_model(tmp_path / "vit")))
    with pytest.raises(AutopeftError, match=r"model '.*': reads images; take a model of texts"):
        Session(Experiment.of(fields, "test"))
    fields["task"] = {**fields["task"], "readout": "image_classification"}
    with pytest.raises(AutopeftError, match="is of images; take the task 'images'"):
        Session(Experiment.of(fields, "test"))


# --- in the engine ---------------------------------------------------------------------------------------------------


def test_losses_are_those_of_the_model_with_labels(bench: Bench) -> None:
    hybrid = mixed(LAYERS, 1)[1].hybrid
    batch = collate(bench.data.train, torch.arange(7).numpy(), 0)
    with Pack(bench.backbone, [Candidate(hybrid)], bench.settings) as pack:
        perturb(pack.attachment.banks)
        weights = pack.weights(0)
        ours = bench.data.readout.loss(pack.forward(batch, {}), batch.labels)
    with Attachment(bench.backbone.model, hybrid) as attached:
        attached.banks.load({n.removeprefix("hybrid."): w for n, w in weights.items() if n.startswith("hybrid.")})
        theirs = bench.backbone.model(**batch.inputs, labels=batch.labels).loss
    assert ours.tolist() == pytest.approx([theirs.item()], rel=1e-5)


def test_packed_and_cached_is_solo(bench: Bench) -> None:
    members = mixed(LAYERS, 3)
    packed = bench.train(members, bench.frozen(), {3: [1]})
    # From the bottom, with two sizes in a layer and one that others lack; from the top; the head alone.
    for i in (0, 2, 3, 4):
        alone = bench.train([members[i]])[0]
        assert packed[i].losses == pytest.approx(alone.losses, rel=1e-5)
        torch.testing.assert_close(packed[i].logits, alone.logits, rtol=2e-4, atol=1e-4)
        assert alone.losses[0] != alone.losses[-1]


def test_a_search_exports_what_evaluates_and_loads(tmp_path: Path) -> None:
    model, data = save_image_model(tmp_path / "vit"), save_images(tmp_path / "data", SIZES)
    changes = {"model": str(model), "task": {"name": "images", "path": str(data)}, "trials": 2}
    fields = {**experiment(tmp_path), **changes, "space": "lora_ranks"}
    fields["training"] = {**fields["training"], "head": "probe"}
    with not_measured():
        result = autopeft.search(out=tmp_path / "run", quiet=True, **fields)
    chosen, out = result.front.points[0], tmp_path / "out"
    result.export(pick=chosen.key, to=out)
    assert json.loads((out / "adapter_config.json").read_text())["task_type"] is None
    assert AutoImageProcessor.from_pretrained(out, backend="pil").size == {"height": 8, "width": 8}
    measured = autopeft.evaluate(out)
    assert measured == pytest.approx({name: chosen.metrics[name] for name in measured}, rel=1e-5)
    assert list(autopeft.evaluate(out, on=data / "test").values()) == pytest.approx(list(measured.values()))
    names: dict[str, Any] = {}
    card = (out / "README.md").read_text()
    exec(card.partition("```python\n")[2].partition("```")[0].replace("path/to/this/folder", str(out)), names)
    base = AutoModelForImageClassification.from_pretrained(model, num_labels=3)
    loaded = PeftModel.from_pretrained(base, str(out)).eval()
    pixels = torch.randn(2, 3, 8, 8)
    with torch.no_grad():
        assert torch.equal(names["model"](pixel_values=pixels).logits, loaded(pixel_values=pixels).logits)


@pytest.mark.slow
def test_a_hybrid_is_exported_and_measured(tmp_path: Path) -> None:
    model, data = save_image_model(tmp_path / "vit"), save_images(tmp_path / "data", SIZES)
    changes = {"model": str(model), "task": {"name": "images", "path": str(data)}, "trials": 2}
    with not_measured():
        result = autopeft.search(out=tmp_path / "run", quiet=True, **{**experiment(tmp_path), **changes})
    chosen, out = result.front.points[-1], tmp_path / "out"
    result.export(pick=chosen.key, to=out, format="autopeft")
    assert json.loads((out / "hybrid.json").read_text())["peft_type"] == "AUTOPEFT"
    measured = autopeft.evaluate(out)
    assert measured == pytest.approx({name: chosen.metrics[name] for name in measured}, rel=1e-5)


def test_costs_are_of_patches(tmp_path: Path) -> None:
    task = {"name": "images", "path": str(save_images(tmp_path / "data", {"train": 12}))}
    fields = experiment(tmp_path, task=task, model=str(save_image_model(tmp_path / "vit")))
    session = Session(Experiment.of(fields, "test"))
    assert session.length == longest(session.source, session.data.readout, 128) == 5
    assert session.budget.length == 5
    assert session.tokens.train.lengths.tolist() == [5] * len(session.tokens.train)
