"""The model card of an export."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from autopeft.exporting._generating import generating_lines
from autopeft.exporting._record import Record
from autopeft.hybrid import Hybrid
from autopeft.models import BUILT_IN, ModelSource
from autopeft.snippet import base_lines, model_lines
from autopeft.writing import replacing

#: What the format is, for the card.
_KINDS = {
    "lora": "stock PEFT LoRA (autopeft is not needed to load it)",
    "lora-padded": "stock PEFT LoRA, padded with zeros to one rank, alpha = r: exact for servers that scale tensors "
    "by their own rank, too (autopeft is not needed to load it)",
    "peft": "a tuner of stock PEFT (autopeft is not needed to load it)",
    "autopeft": "PEFT type AUTOPEFT",
}
#: What Markdown or HTML would take for more than text.
_SPECIAL = re.compile(r"([\\`*\[\]<>|])")


def write_card(to: Path, record: Mapping[str, Any], source: ModelSource) -> None:
    """Write the model card, `README.md`. Names and remarks in it are text, whatever they hold."""
    hybrid = Hybrid.from_json(record["hybrid"])
    written = record.get("format") or ("lora" if record["peft_type"] == "LORA" else "autopeft")
    rows = "\n".join(f"| {plain(name)} | {value:,.6g} |" for name, value in record["metrics"].items())
    imports, base = _base(record["model"])
    known = Record.model_validate(record)
    readout = known.kind
    # A rate says nothing without how it is used.
    training = {**known.training, **known.settings_of(str(to)).chosen_later()}
    load = _LOAD.format(
        imports=f"import autopeft  # registers the PEFT type AUTOPEFT\n{imports}" if written == "autopeft" else imports,
        auto_class=readout.auto_class,
        base=base_lines(source, base, readout),
        after=model_lines(source) + (generating_lines(source) if readout.generates else ""),
    )
    text = _CARD.format(
        base_yaml=json.dumps(record["model"]["name"]), base=plain(record["model"]["name"]),
        task=plain(record["task"]["name"]), describe=hybrid.describe(), note=plain(record["splits"]),
        key=record["key"], seed=record["seed"], rows=rows, load=load, training=json.dumps(training),
        folded=_folded(record), texts=_texts(known),
        remarks="".join(f"\n- {plain(remark)}" for remark in record.get("remarks", [])),
        kind=_KINDS[written], head=_HEAD if record["metrics"].get("head_params", 1) else "",
        again=_AGAIN if "recipe" in record else "", further=_further(record),
    )  # fmt: skip
    with replacing(to / "README.md") as partial:
        partial.write_text(text, encoding="utf-8")


def plain(text: str) -> str:
    """Text on one line that Markdown and HTML show as it is."""
    return _SPECIAL.sub(r"\\\1", " ".join(str(text).split()))


def _code(text: str) -> str:
    """Text on one line for a span of code."""
    return " ".join(str(text).split()).replace("`", "'")


def _texts(record: Record) -> str:
    """How texts were written and measured, where they were."""
    if (known := record.generation) is None:
        return ""
    lines = [f"\nTexts: {plain(known.way)}.\n"]
    if known.signatures:
        found = (f"- {plain(name)}: `{_code(text)}`\n" for name, text in known.signatures.items())
        lines += ["\n", *found]
    return "".join(lines)


def _folded(record: Mapping[str, Any]) -> str:
    """What was trained, where another form of it was written."""
    if not record.get("searched"):
        return ""
    trained = Hybrid.from_json(record["searched"]).describe()
    folded = f"folded into what computes the same (`{record['written']}`)"
    return f"\nTrained as {plain(trained)} (candidate `{record['key']}`), {folded}.\n"


def _further(record: Mapping[str, Any]) -> str:
    """How scores of further test sets are named, where there are some."""
    names = "".join(f" `test_{plain(name)}_`" for name in record.get("evaluate_on", {}))
    return f"\nThose of further test sets start with{names}." if names else ""


def _base(model: Mapping[str, str]) -> tuple[str, str]:
    """Imports and the expression for the base model; a path inside somebody's Python would be of no use to others."""
    built_in = BUILT_IN.get(model["name"])
    if built_in is None:
        return "", json.dumps(model["location"])
    place = f'Path({built_in.package}.__file__).parent / "{built_in.folder}"'
    return f"from pathlib import Path\n\nimport {built_in.package}\n", place


_LOAD = """```python
{imports}from peft import PeftModel
from transformers import {auto_class}

{base}model = PeftModel.from_pretrained(base, "path/to/this/folder").eval()
{after}```"""

_HEAD = "; the task's head (`head_params`) is trained beside it and counted apart"
_AGAIN = """
`autopeft train path/to/this/folder EXPERIMENT` trains it again, by the recipe in `hybrid.json`."""

_CARD = """---
library_name: peft
base_model: {base_yaml}
tags: [autopeft, peft]
---

# {base} on {task}: {describe}

Found by autopeft. Format: {kind}. Candidate `{key}`, training seed {seed}, training hyper-parameters {training}.
{folded}
## Measured

Selected on the validation split; metrics that start with `test_` are of the test split, and were not used to select.
Splits: {note}. One training seed.{further}
{remarks}

| metric | value |
| --- | --- |
{rows}

`trainable_params` are those of the hybrid{head}.
{texts}
## Load

{load}

`autopeft evaluate path/to/this/folder` measures it again on the test split.{again}
"""
