"""`autopeft list methods`: every method of the registry, and what stands in other registries of methods."""

from __future__ import annotations

import importlib
import importlib.util
import json
from collections.abc import Iterator, Mapping
from typing import Any

from autopeft.anatomy import MAPS
from autopeft.cli.tables import console, show
from autopeft.engine.company import Company
from autopeft.hybrid import Hybrid
from autopeft.methods import METHODS, Method
from autopeft.registry import Registry
from autopeft.searching.tables import Column

#: Packages whose registries hold methods that are no hybrid's, where there are any.
_OTHERS = ("autopeft.baselines", "autopeft.after")
#: Headers, the order in which columns go where there is no room (the last one first), and to what they may be cut.
_COLUMNS = {
    "name": ("name", 0, 0), "description": ("what it is", 0, 30), "size": ("size", 1, 0), "merges": ("merges", 2, 0),
    "exports_as": ("exports as", 3, 0), "formula": ("parameters at its places", 4, 24), "places": ("places", 5, 14),
    "family": ("family", 6, 0), "folds_to": ("folds to", 7, 0), "packs": ("packs", 8, 0), "paper": ("paper", 9, 20),
    "zero_init": ("starts at zero", 10, 0),
}  # fmt: skip


def print_methods(as_json: bool) -> None:
    """Print them, with `kind` where they are not the method of a hybrid."""
    rows = [*(_method(cls) for cls in METHODS.all().values()), *_others()]
    if as_json:
        print(json.dumps(rows, indent=2))
        return
    out = console()
    for kind in dict.fromkeys(row["kind"] for row in rows):
        own = [row for row in rows if row["kind"] == kind]
        found = [
            Column(header, [_cell(_short(key, row.get(key))) for row in own], rank, left=True, least=least)
            for key, (header, rank, least) in _COLUMNS.items()
        ]
        if kind != "method":
            out.print()
        show(out, kind, [column for column in found if any(column.cells)])


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
