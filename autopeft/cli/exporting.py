"""`autopeft export`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, cast

from autopeft.cli.fronts import unfinished
from autopeft.cli.heavy import at_work
from autopeft.cli.shown import safe
from autopeft.cli.tables import console, sentence
from autopeft.errors import AutopeftError
from autopeft.plugins import command_line
from autopeft.recipe import FILE
from autopeft.result import SearchResult, export
from autopeft.searching.tables import doubt

if TYPE_CHECKING:
    from autopeft.exporting import Format

_out = console()


def run_export(
    run: Path,
    pick: str,
    to: Path,
    max_params: int | None,
    format: str,
    seed: int | None,
    model: str | None,
    push: str | None,
    private: bool,
    trust_remote_code: bool,
) -> SearchResult:
    """Write a candidate, say what was written and how to go on, and upload it where that was asked for; its search."""
    chosen, result = cast("Format", format) if format != "auto" else None, SearchResult.open(run)
    _check_push(push, private)
    with at_work("writing the export", quiet=False):
        folder = export(
            result, pick, to, max_params, format=chosen, seed=seed, model=model, trust_remote_code=trust_remote_code
        )
    record = json.loads((folder / FILE).read_text(encoding="utf-8"))
    kind = {
        "lora": "stock PEFT LoRA",
        "lora-padded": "stock PEFT LoRA of one rank",
        "gguf": "stock PEFT LoRA, and adapter.gguf for llama.cpp",
        "peft": f"stock PEFT, type {record['peft_type']}",
        "merged": "an ordinary folder of transformers",
        "autopeft": "PEFT type AUTOPEFT",
    }[record["format"]]
    number = f"#{record['number']} " if "number" in record else ""
    sentence(_out, f"wrote candidate {number}{record['key']} to {folder} ({kind})")
    for remark in (doubt(result.front, e) for e in result.front.unconfirmed if e.key == record["key"]):
        sentence(_out, f"note: {remark}")
    if (words := unfinished(result)) is not None:
        sentence(_out, words)
    _out.print(f"measure it again:  {safe(command_line('evaluate', folder))}", soft_wrap=True)
    if push is not None:
        _push(folder, push, private, record)
    return result


def _check_push(push: str | None, private: bool) -> None:
    """What cannot be uploaded is said before anything is trained again."""
    if push is None:
        if private:
            raise AutopeftError("--private: is of a repository that --push makes; give --push USER/NAME too")
        return
    from autopeft.exporting.pushing import check_push

    check_push(push)


def _push(folder: Path, repository: str, private: bool, record: dict[str, object]) -> None:
    from autopeft.exporting.pushing import push

    sentence(_out, f"pushed to {push(folder, repository, private)}")
    model = cast("dict[str, str]", record["model"])
    if record["format"] != "merged" and Path(model["location"]).exists():
        sentence(_out, f"its base model is a folder of this machine ({model['location']}); --format merged needs none")


def check_register(register: str | None, trust_remote_code: bool) -> None:
    """`AutopeftError` where MLflow's server could not open what would be registered."""
    if register and trust_remote_code:
        raise AutopeftError("--register: MLflow's server cannot be told to run a model's own code; leave it out")
