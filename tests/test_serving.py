"""A merged export in `transformers serve`, which is another process: its greedy texts are the hybrid's.

Skipped where what that server needs (`pip install 'transformers[serving]'`) is not installed.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path
from threading import Event

import pytest
import torch
from test_gguf import MIXED
from tiny_models import perturb
from tiny_server import free_port
from tiny_task import save_language_model
from transformers import AutoTokenizer

from autopeft.candidate import Candidate
from autopeft.engine.backbone import REPORTED, Backbone
from autopeft.engine.pack import Pack
from autopeft.engine.settings import TrainingSettings
from autopeft.exporting import write_adapter
from autopeft.models import find_model
from autopeft.readouts.causal_lm import CausalLM

TEXTS = ("w3 w1 w4", "w15", "w9 w2 w6 w5 w35")
NEW = 8


@pytest.fixture
def merged(tmp_path: Path) -> tuple[Path, list[str], list[str]]:
    """A merged export; what the hybrid writes after each text, and what the base model alone would write."""
    source = find_model(str(save_language_model(tmp_path / "model")))
    backbone = Backbone(source, CausalLM(), REPORTED, torch.device("cpu"), 0)
    tokenizer = source.tokenizer()

    def said() -> list[str]:
        found = []
        for text in TEXTS:
            ids = tokenizer(text, return_tensors="pt")["input_ids"]
            new = backbone.model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=NEW, do_sample=False)
            found.append(tokenizer.decode(new[0, ids.shape[1] :], skip_special_tokens=True))
        return found

    alone = said()
    with Pack(backbone, [Candidate(MIXED)], TrainingSettings(seed=1)) as pack:
        perturb(pack)
        hybrid, weights = said(), pack.weights(0)
    write_adapter(source, Candidate(MIXED), weights, CausalLM(), tmp_path / "out", "merged")
    return tmp_path / "out", hybrid, alone


def asked(server: subprocess.Popen[bytes], address: str, model: Path, log: Path) -> list[str]:
    """What a server that begins now writes after each text."""
    for _ in range(600):
        assert server.poll() is None, log.read_text()[-2000:]
        try:
            with urllib.request.urlopen(f"{address}/health", timeout=5):
                break
        except OSError:
            Event().wait(0.5)
    found = []
    for text in TEXTS:
        body = {"model": str(model), "prompt": text, "temperature": 0, "max_tokens": NEW}
        kind = {"Content-Type": "application/json"}
        request = urllib.request.Request(f"{address}/v1/completions", json.dumps(body).encode(), kind)
        with urllib.request.urlopen(request, timeout=300) as answer:
            found.append(json.load(answer)["choices"][0]["text"])
    return found


@pytest.mark.slow
def test_transformers_serve_writes_what_the_hybrid_writes(
    merged: tuple[Path, list[str], list[str]], tmp_path: Path
) -> None:
    for name in ("openai", "fastapi", "uvicorn"):
        pytest.importorskip(name)
    folder, hybrid, alone = merged
    port, log = free_port(), tmp_path / "log"
    command = [sys.executable, "-m", "transformers.cli.transformers", "serve", str(folder), "--port", str(port)]
    with log.open("wb") as out:
        server = subprocess.Popen(
            [*command, "--dtype", "float32", "--device", "cpu"],
            env={**os.environ, "HF_HUB_OFFLINE": "1"}, stdout=out, stderr=out, start_new_session=True,
        )  # fmt: skip
    try:
        served = asked(server, f"http://localhost:{port}", folder, log)
    finally:
        if server.poll() is None:
            os.killpg(server.pid, signal.SIGKILL)
        server.wait()
    assert [text.split() for text in served] == [text.split() for text in hybrid]
    assert hybrid != alone
    assert AutoTokenizer.from_pretrained(folder).model_input_names == ["input_ids", "attention_mask"]
