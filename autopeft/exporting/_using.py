"""The lines of a model card that load an export, and have it answer."""

from __future__ import annotations

import json

from autopeft.exporting._generating import generating_lines
from autopeft.exporting._record import Record
from autopeft.models import BUILT_IN, ModelSource
from autopeft.readouts import Readout
from autopeft.snippet import base_lines, model_lines

_ADAPTER = """```python
{imports}from peft import PeftModel
from transformers import {auto_class}

{base}model = PeftModel.from_pretrained(base, "path/to/this/folder").eval()
{after}```"""
_MERGED = """```python
from transformers import {auto_class}

model = {auto_class}.from_pretrained("path/to/this/folder"{options}).eval()
{after}```"""
_ASK = """

```python
import json
from pathlib import Path

from transformers import AutoTokenizer

folder = Path("path/to/this/folder")
names = json.loads((folder / "hybrid.json").read_text(encoding="utf-8"))["id2label"]
tokenizer = AutoTokenizer.from_pretrained(folder)  # cuts texts at {most} tokens, as in training
inputs = tokenizer({texts}, truncation=True, padding=True, return_tensors="pt"{types})
outputs = model(**inputs).logits.detach().{activation}
print({said})
```"""
#: What is said of outputs [N, C], by the problem that a configuration names.
_SAID = {
    "single_label_classification": (
        "softmax(-1)",
        "[(names[str(int(row.argmax()))], float(row.max())) for row in outputs]",
    ),
    "multi_label_classification": (
        "sigmoid()",
        "[{names[str(n)]: float(p) for n, p in enumerate(row) if p > 0.5} for row in outputs]",
    ),
    "regression": ("squeeze(-1)", "outputs.tolist()"),
}


def loading_lines(record: Record, written: str, source: ModelSource) -> str:
    """Fenced Python that makes `model`, and then asks it."""
    readout = record.kind
    after = generating_lines(source) if readout.generates else ""
    if written == "merged":
        options = ", trust_remote_code=True" if record.trust_remote_code else ""
        load = _MERGED.format(auto_class=readout.auto_class, options=options, after=after)
    else:
        imports, base = _base(record)
        ours = "import autopeft  # registers the PEFT type AUTOPEFT\n" if written == "autopeft" else ""
        load = _ADAPTER.format(
            imports=ours + imports,
            auto_class=readout.auto_class,
            base=base_lines(source, base, readout),
            after=model_lines(source) + after,
        )
    return load + _ask(record, readout)


def _ask(record: Record, readout: Readout) -> str:
    """How a classifier is asked with the tokenizer beside it, where it was written."""
    known = _SAID.get(readout.problem_type or "")
    if known is None or not record.max_length or readout.given != "text" or not readout.describes:
        return ""
    pair = isinstance(record.task.get("text"), list) and len(record.task["text"]) == 2
    texts = '["a text"], ["the other one"]' if pair else '["a text", "another one"]'
    types = "" if pair else ", return_token_type_ids=False"
    activation, said = known
    return _ASK.format(most=record.max_length, texts=texts, types=types, activation=activation, said=said)


def _base(record: Record) -> tuple[str, str]:
    """Imports and the expression for the base model; a path inside somebody's Python would be of no use to others."""
    built_in = BUILT_IN.get(record.model.name)
    if built_in is None:
        return "", json.dumps(record.model.location)
    place = f'Path({built_in.package}.__file__).parent / "{built_in.folder}"'
    return f"from pathlib import Path\n\nimport {built_in.package}\n", place
