"""The tuners of Hugging Face PEFT, each on some maps of a backbone that stays as it is.

`setting` says which tuner, how large and with which options; `container` builds it; `counts` counts it from shapes;
`verdicts` tries a tuner of the installed version and says whether it can be used.
"""

from __future__ import annotations

from autopeft.peft_tuners.setting import SWITCHED, Setting

__all__ = ["SWITCHED", "Setting"]
