"""Models as people have them: whatever is wrong with a folder is one line, and nothing in it runs."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import torch
import yaml
from spoilt_models import (
    Spoil,
    adapter,
    binary,
    config,
    edit,
    emptied,
    evil,
    gguf,
    only_adapter,
    removed,
    set_nan,
    shards,
    tokenizer_config,
    two_gguf,
    weights,
    written,
)
from tiny_models import LABELS
from tiny_project import experiment, write_experiment
from tiny_task import classes, save_model

from autopeft.cli import main
from autopeft.errors import AutopeftError
from autopeft.experiment import Experiment
from autopeft.models import ModelSource, find_model
from autopeft.readouts.regression import Regression
from autopeft.session import Session

BELONG = "use the files that belong together"
QUANTISED = {"bitsandbytes": {"load_in_8bit": True}, "gptq": {"bits": 4}, "awq": {}, "torchao": {}, "hqq": {}}

#: What is spoilt, and what the line says; a model of the family bert where no other is named.
CASES: dict[str, tuple[Spoil, str] | tuple[Spoil, str, str]] = {
    # the folder
    "empty": (emptied, "no config.json in it"),
    "gguf": (gguf, "cannot be loaded from this folder"),
    "two gguf": (two_gguf, "holds 2 GGUF files (a-q4.gguf, model-q4.gguf); give one of them"),
    "adapter only": (only_adapter, "holds a PEFT adapter"),
    "adapter beside a model": (adapter, "holds a PEFT adapter"),
    # config.json as a file
    "config empty": (written("config.json", ""), "config.json: not valid JSON"),
    "config broken": (written("config.json", "{not json"), "config.json: not valid JSON"),
    "config garbage": (written("config.json", b"\xff\xfe\x00\x01"), "config.json: cannot be read"),
    "config a list": (written("config.json", "[]"), "expected a JSON object"),
    "config of levels": (written("config.json", '{"a":' * 100_000), "nested too deeply"),
    "config large": (written("config.json", '{"a": "' + "x" * 17_000_000 + '"}'), "bytes are more than"),
    # the family
    "no family": (written("config.json", "{}"), "names no model_type; known: bert"),
    "family a number": (config(model_type=5), "names no model_type"),
    "family unknown": (config(model_type="nosuch"), "model family 'nosuch' is not supported; known: bart, bert"),
    "family near": (config(model_type="robert"), "did you mean 'roberta'?"),
    "another family": (config(model_type="gpt2"), "the checkpoint lacks weights of"),
    # sizes
    "no layers": (config(num_hidden_layers=0), "num_hidden_layers is 0; expected a whole number from 1 to"),
    "layers absurd": (config(num_hidden_layers=10**7), "num_hidden_layers is 10000000"),
    "layers true": (config(num_hidden_layers=True), "num_hidden_layers is True"),
    "layers too many": (config(num_hidden_layers=4), "the checkpoint lacks weights of bert.encoder.layer.3."),
    "layers too few": (config(num_hidden_layers=2), "more than the 2 layers that its config.json says"),
    "width absurd": (config(hidden_size=10**9), "hidden_size is 1000000000"),
    "width negative": (config(hidden_size=-32), "hidden_size is -32"),
    "width a string": (config(hidden_size="32"), "hidden_size is '32'"),
    "width a fraction": (config(hidden_size=32.0), "hidden_size is 32.0"),
    "width null": (config(hidden_size=None), "'hidden_size'"),
    "width of another": (config(hidden_size=64), f"is [32] in the checkpoint, and [64] by its config.json; {BELONG}"),
    "width far too large": (config(hidden_size=2**20), f"parameters, but its weights are 121,272 bytes; {BELONG}"),
    "heads do not divide": (config(num_attention_heads=5), "is not a multiple of the number of attention heads (5)"),
    "heads of keys": (config(num_key_value_heads=3), "must be a multiple of num_key_value_heads (3)", "llama"),
    "vocabulary absurd": (config(vocab_size=10**9), "vocab_size is 1000000000"),
    "vocabulary of another": (config(vocab_size=98), "word_embeddings.weight is [99, 32] in the checkpoint, and [98"),
    "positions absurd": (config(max_position_embeddings=10**9), "parameters, but its weights are"),
    "positions none": (config(max_position_embeddings=2), "leaves no position for a token", "roberta"),
    "padding beyond": (config(pad_token_id=500), "pad_token_id (500) is not below vocab_size (99)"),
    "padding a list": (config(pad_token_id=[0]), "'pad_token_id'"),
    "layers of other widths": (config(per_layer_config={"0": {"intermediate_size": 8}}), "no model can be built"),
    # the rest of the configuration
    "function unknown": (config(hidden_act="nope"), "no model can be built from this configuration (KeyError 'nope')"),
    "data type unknown": (config(dtype="float33"), "no attribute 'float33'"),
    "data type of integers": (config(dtype="int8"), "not a floating-point dtype"),
    "decoder": (config(is_decoder=True), "it describes a decoder"),
    "cross attention": (config(add_cross_attention=True), "it describes a decoder"),
    "chunks": (config(chunk_size_feed_forward=2), "cannot compute with its config.json (The dimension to be chunked"),
    "norm not a number": (config(layer_norm_eps=float("nan")), "computes no numbers"),
    "rope unknown": (config(rope_parameters={"rope_type": "nope"}), "no model can be built", "llama"),
    "kinds of layers": (config(layer_types=["full_attention"]), "validate_layer_type", "qwen2"),
    "own code for the family": (config(model_type="mine", auto_map={"AutoConfig": "code.Config"}), "'mine' is not"),
    **{
        f"quantised by {name}": (config(quantization_config={"quant_method": name, **more}), "cannot be loaded")
        for name, more in QUANTISED.items()
    },
    "quantised by nobody": (config(quantization_config={}), "no `quant_method`"),
    "quantised by a string": (config(quantization_config="x"), "cannot be loaded from this folder"),
    # weights
    "no weights": (removed("model.safetensors"), "no file named model.safetensors"),
    "weights empty": (written("model.safetensors", b""), "model.safetensors: is empty; download the model again"),
    "weights garbage": (written("model.safetensors", b"x" * 100_000), "header too large"),
    "weights half": (lambda f: (f / "model.safetensors").write_bytes((f / "model.safetensors").read_bytes()[:-9]),
                     "incomplete metadata"),
    "weights tiny": (written("model.safetensors", b"half a file"), "but its weights are 11 bytes"),
    "weights of other names": (weights(lambda t: [t.__setitem__(f"z.{k}", t.pop(k)) for k in list(t)]), "lacks"),
    "weights not numbers": (weights(set_nan), "computes no numbers (NaN or infinite), so its weights are broken"),
    "bin empty": (binary(b""), "pytorch_model.bin: is empty"),
    "bin garbage": (binary(b"x" * 100_000), "holds other things than weights, or is broken, and is not opened"),
    "bin a broken archive": (binary(b"PK\x03\x04" + b"x" * 100_000), "cannot be loaded from this folder"),
    "bin malicious": (evil, "holds other things than weights, or is broken, and is not opened"),
    "shard elsewhere": (shards(weight_map={"a": "../x.safetensors"}), "'../x.safetensors' is not a file of"),
    "shard missing": (shards(weight_map={"a": "x.safetensors"}), "x.safetensors is missing; download the model again"),
    "shards a list": (shards(weight_map=[1]), "'weight_map' is no mapping"),
    # the tokenizer
    "no tokenizer": (removed("tokenizer.json", "tokenizer_config.json"), "no vocabulary of a tokenizer in it"),
    "tokenizer empty": (written("tokenizer.json", ""), "its tokenizer cannot be loaded from this folder (Exp"),
    "tokenizer garbage": (written("tokenizer.json", b"\xff\x00"), "cannot be loaded from this folder"),
    "tokenizer without content": (written("tokenizer.json", "{}"), "cannot be loaded from this folder"),
    "tokenizer a list": (written("tokenizer.json", "[]"), "cannot be loaded from this folder"),
    "tokenizer_config garbage": (written("tokenizer_config.json", "garbage"), "cannot be loaded from this folder"),
    "tokenizer_config a list": (written("tokenizer_config.json", "[]"), "cannot be loaded from this folder"),
    "tokenizer class a number": (tokenizer_config(tokenizer_class=5), "cannot be loaded from this folder"),
    "tokenizer of no length": (tokenizer_config(model_max_length=0), "model_max_length of its tokenizer is 0"),
    "tokenizer of words for a length": (tokenizer_config(model_max_length="x"), "cannot be loaded from this folder"),
    "tokenizer cuts nowhere": (tokenizer_config(truncation_side="up"), "Truncation side should be"),
    "tokenizer's added tokens": (tokenizer_config(added_tokens_decoder={"x": 1}), "cannot be loaded from this folder"),
    "nothing to pad with": (
        tokenizer_config(pad_token=None, unk_token=None, cls_token=None, sep_token=None),
        'its tokenizer has no token to pad with; add a "pad_token"',
    ),
}  # fmt: skip

#: What is odd and none of our business: it loads, and computes what the model computes.
ODD: dict[str, Spoil] = {
    "outputs": config(return_dict=False, torchscript=True, output_attentions=True, output_hidden_states=True),
    "attention": config(attn_implementation="flash_attention_2", _attn_implementation="nope"),
    "cache": config(use_cache=False),
    "labels": config(num_labels=10**9, id2label=[1], label2id=3, problem_type=5),
    "one label": config(num_labels=1, problem_type="single_label_classification"),
    "padding from the end": config(pad_token_id=-1),
    "tied": config(tie_word_embeddings=False),
    "own code beside ours": config(auto_map={"AutoConfig": "code.C", "AutoModelForSequenceClassification": "code.M"}),
    "shards": shards(),
    "no class of a tokenizer": tokenizer_config(tokenizer_class="Nope"),
    "own code of a tokenizer": tokenizer_config(auto_map={"AutoTokenizer": ["code.T", None]}),
    "no tokenizer_config": removed("tokenizer_config.json"),
}


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A good model of every family that the tables need."""
    folder = tmp_path_factory.mktemp("good")
    for family in ("bert", "roberta", "llama", "qwen2"):
        save_model(folder / family, family)
    return folder


def opened(source: ModelSource) -> torch.Tensor:
    """Open all there is of a model, in the order of a search; the logits of a short text."""
    source.shape()
    source.head_params(classes(LABELS))
    pad = source.tokenizer().pad_token_id
    source.limits()
    model = source.model(classes(LABELS), torch.float32, pad)
    with torch.no_grad():
        return model.base_model(input_ids=torch.tensor([[9, 8, 11]]))[0]


@pytest.mark.parametrize("case", CASES)
def test_a_spoilt_folder_is_one_line_that_says_what_is_wrong(
    case: str, good: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoil, says, *family = CASES[case]
    folder = shutil.copytree(good / (family[0] if family else "bert"), tmp_path / "model")
    spoil(folder)
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(AutopeftError) as caught:
        opened(find_model(str(folder)))
    said = str(caught.value)
    assert says in said
    assert "\n" not in said
    assert len(said) < 700
    assert str(folder) in said or said.startswith("model family ")
    assert not (folder / "ran").exists(), "the pickle ran"


@pytest.mark.parametrize("case", ODD)
def test_what_is_odd_but_not_of_the_backbone_changes_nothing(case: str, good: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(good / "bert", tmp_path / "model")
    (folder / "code.py").write_text(f"import os; os.mkdir({str(tmp_path / 'ran')!r})")
    ODD[case](folder)
    source = find_model(str(folder))
    assert torch.equal(opened(source), opened(find_model(str(good / "bert"))))
    assert not (tmp_path / "ran").exists(), "the model's own code ran"
    with torch.no_grad():
        for readout in (classes(LABELS), Regression()):
            model = source.model(readout, torch.float32)
            assert model(input_ids=torch.tensor([[9, 8]])).logits.shape == (1, readout.outputs)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_of_another_data_type_open(dtype: torch.dtype, good: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(good / "bert", tmp_path / "model")
    weights(lambda tensors: tensors.update({name: t.to(dtype) for name, t in tensors.items()}))(folder)
    torch.testing.assert_close(
        opened(find_model(str(folder))), opened(find_model(str(good / "bert"))), rtol=0.1, atol=0.1
    )


def test_pickled_weights_of_a_base_model_open_as_weights_only(good: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(good / "bert", tmp_path / "model")
    model = find_model(str(folder)).model(classes(2), "auto")
    (folder / "model.safetensors").unlink()
    torch.save(model.base_model.state_dict(), folder / "pytorch_model.bin")
    assert torch.equal(opened(find_model(str(folder))), opened(find_model(str(good / "bert"))))


def test_the_malicious_pickle_would_run(tmp_path: Path) -> None:
    """What the table holds is a real one."""
    written("model.safetensors", b"")(tmp_path)
    evil(tmp_path)
    torch.load(tmp_path / "pytorch_model.bin", weights_only=False)
    assert (tmp_path / "ran").is_dir()


def test_a_file_in_place_of_a_folder(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"x")
    with pytest.raises(AutopeftError, match="is a file; give the folder that holds the model"):
        find_model(str(tmp_path / "model.safetensors"))
    for name in ("x" * 5000, "a\0b"):
        with pytest.raises(AutopeftError) as caught:
            find_model(f"/{name}")
        assert len(str(caught.value)) < 6000


ABSURD = """
import resource, sys
from autopeft.models import find_model
from autopeft.errors import AutopeftError
import transformers, torch, transformers.models.auto.configuration_auto, transformers.models.qwen2
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for folder in sys.argv[1:]:
    try:
        find_model(folder).shape()
    except AutopeftError as error:
        print(error)
grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
assert grown < 100_000, grown
"""


def test_absurd_sizes_are_refused_before_anything_is_allocated(good: Path, tmp_path: Path) -> None:
    folders = []
    for field in ("num_hidden_layers", "hidden_size", "vocab_size", "intermediate_size", "num_attention_heads"):
        folders.append(str(shutil.copytree(good / "qwen2", tmp_path / field)))
        edit(tmp_path / field / "config.json", **{field: 10**9, "layer_types": ...})
    done = subprocess.run([sys.executable, "-c", ABSURD, *folders], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    said = done.stdout.splitlines()
    assert len(said) == len(folders)
    assert all(
        f"{Path(folder).name} is 1000000000; expected" in line for folder, line in zip(folders, said, strict=True)
    )


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json", "."])
def test_what_must_not_be_read_is_said(name: str, good: Path) -> None:
    with tempfile.TemporaryDirectory() as place:
        folder = shutil.copytree(good / "bert", Path(place) / "model")
        opened(find_model(str(folder)))
        Path(place).chmod(0o755)
        (folder / name).chmod(0)
        os.seteuid(65534)
        try:
            with pytest.raises(AutopeftError) as caught:
                opened(find_model(str(folder)))
        finally:
            os.seteuid(0)
            folder.chmod(0o755)
    assert str(folder) in str(caught.value)
    assert "ermission denied" in str(caught.value)


# --- through the command line ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("verb", "case"),
    [
        ("plan", "config garbage"),
        ("plan", "weights not numbers"),
        ("plan", "bin malicious"),
        ("plan", "chunks"),
        ("search", "tokenizer garbage"),
        ("search", "quantised by gptq"),
        ("search", "padding beyond"),
    ],
)
def test_the_command_line_ends_with_status_2_and_one_line(
    verb: str, case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    spoil, says, *_ = CASES[case]
    fields = experiment(tmp_path)
    spoil(tmp_path / "model")
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(fields))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["autopeft", verb, "tiny.yaml"])
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    error = [line for line in capsys.readouterr().err.splitlines() if line.startswith("autopeft: error: ")]
    assert len(error) == 1
    assert says in error[0]


def test_more_than_the_weights_hold_is_refused_before_anything_is_computed(good: Path, tmp_path: Path) -> None:
    """Layers up to the bound took over a minute, of costs and repairs, before the weights were looked at."""
    folder = shutil.copytree(good / "bert", tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 512}))
    with pytest.raises(AutopeftError, match=r"describes [\d,]+ parameters, but its weights are [\d,]+ bytes"):
        Session(Experiment.load(write_experiment(tmp_path, model=str(folder))))
