"""`python -m autopeft.peft_tuners`: a table of all tuners of the installed PEFT, in Markdown, made by trying them."""

from __future__ import annotations

from autopeft.peft_tuners.verdicts import Verdict, all_verdicts

_TEXT = """# The tuners of Hugging Face PEFT

Written by `python -m autopeft.peft_tuners`, which tries every tuner of the installed version on a tiny BERT:
{works} of {all} of PEFT {version} can be used.

```yaml
blocks:
  hadamard:
    {{method: peft, tuner: loha, size: [0, 4, 8], sites: [q, v], options: {{alpha: 16}}}}
```

`size` is the value of the tuner's size field (another one: `size_field`); the other fields of its configuration are
`options`. A tuner that is on or off has the sizes 0 and 1. `frod`'s size is in thousandths. A tuner works when its
trained weights can be counted exactly from shapes, layer by layer; when the same weights give the same outputs, to the
bit, in a tuner that is built again with another seed; when each weight gets a gradient; when a token's output
does not depend on the rest of the batch; and when the backbone and the
global random generator stay as they were. Dropout is off while candidates are trained, as for all methods: `pvera` is
trained at its mean.

- *count*: trained weights at size 4, or on, of one layer's query and value maps (norms: of both norms), 64 wide with
  biases, and what is held once a model.
- *stored*: bytes of PEFT's own file for them: some tuners store projections, masks or indices, too.
- *with the size*: how the count goes from size 4 to 8.
- *starts at*: the largest change of the tiny model's output before training.
- *replaces*: it computes a map's output anew. Other methods act on its output, and one such tuner can be at a map.
- *shares*: layers share weights or projections.

| tuner | size field | at | count | stored | with the size | starts at | replaces | shares |
| --- | --- | --- | --- | --- | --- | --- | --- | --- |
{rows}

## Refused

| tuner | reason |
| --- | --- |
{refused}
"""


def table() -> str:
    """The page."""
    import peft

    found = all_verdicts()
    works = [v for v in found if v.works]
    rows, refused = "\n".join(map(_row, works)), "\n".join(f"| {v.tuner} | {v.reason} |" for v in found if not v.works)
    return _TEXT.format(works=len(works), all=len(found), version=peft.__version__, rows=rows, refused=refused)


def _row(found: Verdict) -> str:
    growth = "" if found.growth == "on" else "stays" if found.growth == "same" else found.growth
    start = "the backbone" if not found.change else f"{found.change:.0e}"
    told = (found.tuner, found.size_field, ", ".join(found.places), f"{found.trained:,}", f"{found.stored:,}", growth)
    return f"| {' | '.join((*told, start, *('yes' if f else '' for f in (found.replaces, found.shares))))} |"


if __name__ == "__main__":
    print(table(), end="")
