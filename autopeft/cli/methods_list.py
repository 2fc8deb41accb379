"""`autopeft list methods`: every method of the registry, and what stands in other registries of methods."""

from __future__ import annotations

import importlib
import importlib.util
import json
from collections.abc import Iterator, Mapping
from typing import Any

from rich.table import Table

from autopeft.anatomy import MAPS
from autopeft.cli.shown import safe
from autopeft.cli.tables import console
from autopeft.engine.company import Company
from autopeft.hybrid import Hybrid
from autopeft.methods import METHODS, Method
from autopeft.registry import Registry

#: Packages whose registries hold methods that are no hybrid's, where there are any.
_OTHERS = ("autopeft.baselines", "autopeft.after")
_COLUMNS = {
    "name": "name", "family": "family", "paper": "paper", "size": "size", "places": "places",
    "formula": "parameters at its places", "packs": "packs", "folds_to": "folds to", "merges": "merges",
    "exports_as": "exports as", "zero_init": "starts at zero",
}  # fmt: skip
_WIDE = 200


def print_methods(as_json: bool) -> None:
    """Print them, with `kind` where they are not the method of a hybrid."""
    rows = [*(_method(cls) for cls in METHODS.all().values()), *_others()]
    if as_json:
        print(json.dumps(rows, indent=2))
        return
    out = console(_WIDE)
    for kind in dict.fromkeys(row["kind"] for row in rows):
        own = [row for row in rows if row["kind"] == kind]
        keys = [key for key in _COLUMNS if any(_cell(row.get(key)) for row in own)]
        table = Table(box=None, header_style="bold", padding=(0, 2, 0, 0), title_justify="left")
        for key in keys:
            table.add_column(_COLUMNS[key], overflow="fold")
        for row in own:
            table.add_row(*(safe(_cell(_short(key, row.get(key)))) for key in keys))
        if kind != "method":
            out.print(f"\n[bold]{safe(kind)}[/]")
        out.print(table)


def _short(key: str, value: Any) -> Any:
    """Authors and year of a paper; the linear maps in two words."""
    if key == "paper":
        return str(value).partition(",")[0]
    if key == "places" and isinstance(value, list) and set(value) >= set(MAPS):
        return ["all maps", *(place for place in value if place not in MAPS)]
    return value


def _cell(value: Any) -> str:
    if isinstance(value, list):
        return " ".join(value)
    return {True: "yes", False: "", None: ""}.get(value, str(value))


def _method(cls: type[Method]) -> dict[str, Any]:
    """What is told of a method, in its usual settings."""
    method = cls.as_usual()
    folded, exported = method.folded(), method.exported()
    return {
        "name": cls.name,
        "kind": "method",
        "description": cls.description,
        "family": cls.family,
        "paper": cls.paper,
        "places": list(cls.allowed_sites),
        "formula": cls.formula,
        "size": "on or off" if cls.largest == 1 else cls.size,
        "packs": _packs(method),
        "folds_to": folded.name if folded != method else None,
        "merges": folded.mergeable,
        "exports_as": exported.peft_type or "AUTOPEFT",
        "zero_init": method.zero_init,
        "options": {name: json.dumps(value) for name, value in method.to_json().items() if name != "method"},
    }


def _packs(method: Method) -> str:
    """With whom it trains in one pack: anything, candidates of its own company, or few of them at once."""
    company = Company.of(Hybrid.uniform(1, method))
    alike = Company(most=company.most) != company
    few = [f"{company.most} at most"] if company.most else []
    return ", ".join((["with its like"] if alike else []) + few) or "yes"


def _others() -> Iterator[Mapping[str, Any]]:
    """Rows of other registries: what their classes say of themselves."""
    for package in _OTHERS:
        if importlib.util.find_spec(package) is None:
            continue
        for registry in list(vars(importlib.import_module(package)).values()):
            if isinstance(registry, Registry):
                for name, cls in registry.all().items():
                    told = {key: str(getattr(cls, key, "")) for key in ("description", "family", "paper", "formula")}
                    yield {"name": name, "kind": registry.kind, **told}
