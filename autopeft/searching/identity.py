"""What makes a search the search that it is: all that its scores and proposals depend on, kept in its study."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from autopeft import fingerprint
from autopeft.errors import AutopeftError
from autopeft.hybrid import canonical_json

#: Of the header. One without belongs to version 0.1, and lacks what is compared since then.
FORMAT = 2
#: Packages that scores may depend on in their last digits.
_PACKAGES = ("torch", "transformers", "peft", "optuna", "tokenizers")
#: So many differences are named, so much of each value.
_NAMED, _LENGTH = 4, 60
_ELSE = "go back to those settings, or give another run folder (out)"


def refuse_another(run: Path, there: Mapping[str, Any], now: Mapping[str, Any], otherwise: str = _ELSE) -> None:
    """`AutopeftError` with what differs when `now` is not what `there`, the header in the run folder, says.

    Of `now` only what is given counts; what a header of version 0.1 lacks is not compared.
    """
    asked = {key: value for key, value in now.items() if key in there or "format" in there}
    if "fingerprint" in asked and there.get("fingerprint") != asked.pop("fingerprint"):
        raise AutopeftError(
            f"{run}: the task's data are not those that this search began with (files or options of the task, such "
            "as train_limit, were changed, or the libraries behind docstrings upgraded); bring them back, or "
            f"{otherwise}"
        )
    model = fingerprint.difference(there.get("model") or {}, asked.pop("model", None) or {})
    if model:
        raise AutopeftError(
            f"{run}: the model is not the one that this search began with: {model}; bring it back, or {otherwise}"
        )
    changed = _changed(there.get("plugins"), asked.pop("plugins", None))
    if changed:
        raise AutopeftError(
            f"{run}: the code of plug-in {changed} is not what this search began with, and results would not be "
            f"comparable; bring it back, or {otherwise}"
        )
    if differ := listed(differences("", {key: there.get(key) for key in asked}, asked)):
        raise AutopeftError(f"{run}: holds another search: {differ}; {otherwise}")


def versions() -> dict[str, str]:
    """Of the packages that scores may depend on in their last digits."""
    return {name: _version(name) for name in _PACKAGES}


def _changed(there: Mapping[str, str] | None, now: Mapping[str, str] | None) -> str | None:
    """The first plug-in that both know, with other code. Studies of older versions know of none."""
    began = there or {}
    return next((name for name, code in (now or {}).items() if began.get(name, code) != code), None)


def differences(path: str, there: Any, now: Any) -> Iterator[str]:
    """The leaves in which two values differ, with both; `path` is where these values stand."""
    if isinstance(there, Mapping) and isinstance(now, Mapping):
        for key in dict.fromkeys([*there, *now]):
            yield from differences(f"{path}.{key}" if path else str(key), there.get(key), now.get(key))
    elif canonical_json(there) != canonical_json(now):
        yield f"{path} (there: {_said(there)}, now: {_said(now)})"


def listed(differ: Iterable[str]) -> str:
    """The first few, and how many more there are; "" of none."""
    found = list(differ)
    more = f" and {len(found) - _NAMED} more" if len(found) > _NAMED else ""
    return f"{', '.join(found[:_NAMED])}{more}"


def _said(value: Any) -> str:
    if isinstance(value, Sequence) and value and all(isinstance(v, Mapping) and "metric" in v for v in value):
        value = [v["metric"] for v in value]
    text = "nothing" if value is None else repr(value)
    return text if len(text) <= _LENGTH else f"{text[: _LENGTH - 1]}…"


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "none"
