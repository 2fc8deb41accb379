"""The model card of an export."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from autopeft.costs import COSTS
from autopeft.exporting._folder import CARD
from autopeft.exporting._record import Record
from autopeft.exporting._using import loading_lines
from autopeft.hybrid import Hybrid
from autopeft.markup import markdown, markdown_table
from autopeft.models import BUILT_IN, ModelSource
from autopeft.writing import replacing

#: What the format is, for the card.
_KINDS = {
    "lora": "stock PEFT LoRA (autopeft is not needed to load it)",
    "lora-padded": "stock PEFT LoRA, padded with zeros to one rank, alpha = r: exact for servers that scale tensors "
    "by their own rank, too (autopeft is not needed to load it)",
    "gguf": "stock PEFT LoRA (autopeft is not needed to load it), and `adapter.gguf`, the same for llama.cpp, which "
    "takes it on the base model's GGUF file (`llama-server -m BASE.gguf --lora adapter.gguf`)",
    "peft": "a tuner of stock PEFT (autopeft is not needed to load it)",
    "merged": "the base model with the hybrid in its own weights, fp32: an ordinary folder of transformers (neither "
    "autopeft nor PEFT nor the base model is needed to load it)",
    "autopeft": "PEFT type AUTOPEFT",
}
#: What the hub calls a model of transformers' class.
_PIPELINES = {
    "AutoModelForSequenceClassification": "text-classification",
    "AutoModelForTokenClassification": "token-classification",
    "AutoModelForCausalLM": "text-generation",
    "AutoModelForSeq2SeqLM": "text2text-generation",
    "AutoModelForMaskedLM": "fill-mask",
    "AutoModelForImageClassification": "image-classification",
}
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
#: Classes that a card names.
_MOST_NAMED = 50


def write_card(to: Path, record: Mapping[str, Any], source: ModelSource) -> None:
    """Write the model card, `README.md`. Names and remarks in it are text, whatever they hold."""
    hybrid = Hybrid.from_json(record["hybrid"])
    known = Record.model_validate(record)
    written = record.get("format") or ("lora" if record["peft_type"] == "LORA" else "autopeft")
    # A rate says nothing without how it is used.
    training = {**known.training, **known.settings_of(str(to)).chosen_later()}
    text = _CARD.format(
        front=_front(known, written), base=markdown(known.model.name), task=markdown(known.task["name"]),
        describe=markdown(hybrid.describe()), note=markdown(known.splits), key=_candidate(known), seed=known.seed,
        scores=_scores(known), costs=_costs(known), load=loading_lines(known, written, source),
        training=json.dumps(training), folded=_folded(record), texts=_texts(known),
        remarks="".join(f"\n- {markdown(remark, begins=True)}" for remark in known.remarks), kind=_KINDS[written],
        again=_AGAIN if "recipe" in record else "", further=_further(record), seeds=_seeds(known), data=_data(known),
        limits=_limits(known, written),
    )  # fmt: skip
    with replacing(to / CARD) as partial:
        partial.write_text(text, encoding="utf-8")


def _candidate(record: Record) -> str:
    return f"`{record.key}`" if record.number is None else f"#{record.number} of its search, key `{record.key}`"


def _code(text: str) -> str:
    """Text on one line for a span of code."""
    return " ".join(str(text).split()).replace("`", "'")


def _front(record: Record, written: str) -> str:
    """What the hub reads at the head of a card; a folder's path is no base model to it."""
    built_in = BUILT_IN.get(record.model.name)
    hub = built_in.hub if built_in else record.model.name
    named = built_in is not None or (_HUB_ID.fullmatch(hub) and not Path(record.model.location).exists())
    pipeline = _PIPELINES.get(record.kind.auto_class)
    lines = [
        f"library_name: {'transformers' if written == 'merged' else 'peft'}",
        *([f"base_model: {json.dumps(hub)}"] if named else []),
        *([f"pipeline_tag: {pipeline}"] if pipeline else []),
        f"tags: [autopeft{'' if written == 'merged' else ', peft'}]",
    ]
    return "\n".join(lines)


def _scores(record: Record) -> str:
    """A row a score; with mean and deviation over seeds where there were several."""
    costs = {*COSTS.names(), *_HEAD}
    own = {name: value for name, value in record.metrics.items() if name not in costs}
    if (spread := record.spread) is None:
        return markdown_table(["metric", "value"], [[name, f"{value:,.6g}"] for name, value in own.items()])
    rows = []
    for name, value in own.items():
        over = [f"{x:,.4g}" for x in spread.scores[name]] if name in spread.scores else ["", ""]
        rows.append([name, f"{value:,.6g}", *over])
    return markdown_table(["metric", "these weights", "mean", "standard deviation"], rows)


def _costs(record: Record) -> str:
    """A row a cost, with what it is."""
    named = {name: COSTS.get(name).description.partition(";")[0] for name in COSTS.names()} | _HEAD
    own = [(name, what) for name, what in named.items() if name in record.metrics]
    return markdown_table(["cost", "value", ""], [[name, f"{record.metrics[name]:,.6g}", what] for name, what in own])


def _seeds(record: Record) -> str:
    if record.spread is None:
        return f"One training, of seed {record.seed}: how far another one would differ was not measured."
    return (
        f"These are the weights of seed {record.seed}, the one of median validation score unless another was asked "
        f"for; mean and standard deviation are over {record.spread.seeds} seeds."
    )


def _data(record: Record) -> str:
    """What it was trained on, and the classes."""
    lines = [
        f"- Task `{_code(record.task['name'])}`; {markdown(record.splits)}. Fingerprint of the data: `{record.data}`."
    ]
    names = [f"{number}: {markdown(name)}" for number, name in enumerate(record.labels)]
    if names:
        more = f", and {len(names) - _MOST_NAMED:,} more (`hybrid.json`)" if len(names) > _MOST_NAMED else ""
        lines.append(f"- Classes: {'; '.join(names[:_MOST_NAMED])}{more}.")
    if record.positive is not None:
        lines.append(f"- Positive class, which `f1` is of: {markdown(record.labels[record.positive])}.")
    if record.max_length:
        lines.append(f"- Texts were cut at {record.max_length:,} tokens in training, and are so here.")
    return "\n".join(lines)


def _limits(record: Record, written: str) -> str:
    lines = [
        "Scores are of the data above; nothing was measured on other texts, languages or groups of people.",
        "What limits the base model, and its licence, holds for this too.",
    ]
    if record.max_length:
        lines.append(f"What stands behind the first {record.max_length:,} tokens was not learned from.")
    if written != "merged":
        lines.append("It is made for this very base model; `autopeft evaluate` warns of another one.")
    if record.quantise:
        lines.append(f"It was trained and measured on a backbone that is kept as {record.quantise}.")
    return "\n".join(f"- {line}" for line in lines)


def _texts(record: Record) -> str:
    """How texts were written and measured, where they were."""
    if (known := record.generation) is None:
        return ""
    lines = [f"\nTexts: {markdown(known.way)}.\n"]
    if known.signatures:
        found = (f"- {markdown(name)}: `{_code(text)}`\n" for name, text in known.signatures.items())
        lines += ["\n", *found]
    return "".join(lines)


def _folded(record: Mapping[str, Any]) -> str:
    """What was trained, where another form of it was written."""
    if not record.get("searched"):
        return ""
    trained = Hybrid.from_json(record["searched"]).describe()
    folded = f"folded into what computes the same (`{record['written']}`)"
    return f"\nTrained as {markdown(trained)} (candidate `{record['key']}`), {folded}.\n"


def _further(record: Mapping[str, Any]) -> str:
    """How scores of further test sets are named, where there are some."""
    names = "".join(f" `test_{_code(name)}_`" for name in record.get("evaluate_on", {}))
    return f"\nThose of further test sets start with{names}." if names else ""


_HEAD = {"head_params": "parameters of the task's head, which is trained beside the hybrid and counted apart"}
_AGAIN = """
`autopeft train path/to/this/folder EXPERIMENT` trains it again, by the recipe in `hybrid.json`."""

_CARD = """---
{front}
---

# {base} on {task}: {describe}

Found by autopeft. Format: {kind}. Candidate {key}, training seed {seed}, training hyper-parameters {training}.
{folded}
## Measured

Selected on the validation split; metrics that start with `test_` are of the test split, and were not used to select.
Splits: {note}.{further}
{seeds}
{remarks}

{scores}
{costs}{texts}
## Data

{data}

## Load

{load}

`autopeft predict path/to/this/folder FILE` answers a file of texts, `autopeft evaluate path/to/this/folder` measures it
again on the test split, and with `--on FILE` on another file.{again}

## Limits

{limits}
"""
