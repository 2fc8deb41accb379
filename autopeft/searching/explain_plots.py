"""What a search has learned as a picture: interactive (plotly), and still (matplotlib)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from plotly.graph_objects import Figure

    from autopeft.searching.explanation import Explanation, Share

_SCALE = "Blues"
_FIRST, _TOTAL, _FOREST = "#1f4e9c", "#9db8e0", "#b0b7c3"
#: Attribute of a share, what it is called, its colour.
SERIES = (
    ("first", "surrogate, alone", _FIRST),
    ("total", "surrogate, with interactions", _TOTAL),
    ("forest", "forest (fANOVA)", _FOREST),
)
#: Up to so many cells the still has a number in each.
_NUMBERED = 200
#: The least share of variance that gets the darkest colour: smaller differences are of the sampling.
_DARKEST = 0.05


def explain_figure(explanation: Explanation) -> Figure:
    """The front's layers and blocks, the shares of variance by both, by layer, and by block and training."""
    from plotly.subplots import make_subplots

    figure = make_subplots(2, 2, subplot_titles=_titles(explanation), vertical_spacing=0.16, horizontal_spacing=0.12)
    _add_heat(figure, explanation, use_share(explanation), _use_hover(explanation), 1)
    if explanation.cells:
        _add_heat(figure, explanation, cell_totals(explanation), _cell_hover(explanation), 2)
    else:
        figure.update_xaxes(visible=False, row=1, col=2).update_yaxes(visible=False, row=1, col=2)
    for column, shares in enumerate(_bars(explanation), 1):
        _add_bars(figure, shares, column)
    notes = [_quality(explanation), *explanation.warnings, *explanation.advice]
    said = "".join(f"<br><sup>{line}</sup>" for line in notes)
    figure.update_layout(
        title=_title(explanation) + said,
        template="simple_white",
        barmode="group",
        height=900,
        margin={"t": 150 + 20 * (len(notes) - 1)},
        legend={"orientation": "h", "y": -0.08},
    )
    return figure


def save_explanation(explanation: Explanation, path: Path) -> None:
    """The same as a PNG file."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure as Still

    layers = explanation.front.counts.shape[0]
    figure = Still(figsize=(12, 6 + 0.25 * layers), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(2, 2, height_ratios=[max(3.0, 0.3 * layers), 3.0])
    titles = _titles(explanation)
    _draw_heat(axes[0, 0], explanation, use_share(explanation), explanation.front.sizes)
    if explanation.cells:
        _draw_heat(axes[0, 1], explanation, cell_totals(explanation), None)
    else:
        axes[0, 1].set_axis_off()
    for at, shares in zip(axes[1], _bars(explanation), strict=True):
        _draw_bars(at, shares)
    for at, title in zip(axes.flat, titles, strict=True):
        at.set_title(title, fontsize=10)
    axes[1, 1].legend(frameon=False, fontsize=8)
    said = [_title(explanation), _quality(explanation), *explanation.warnings, *explanation.advice]
    figure.suptitle("\n".join(said), fontsize=10)
    figure.savefig(path, format="png", dpi=130)


def use_share(explanation: Explanation) -> np.ndarray:
    """The share of the front's members that have each block in each layer [L, B]."""
    return explanation.front.shares


def cell_totals(explanation: Explanation) -> np.ndarray:
    """The total share of variance of each block in each layer [L, B]; NaN where there is no choice."""
    layers, blocks = explanation.front.counts.shape[0], list(explanation.methods)
    totals = np.full((layers, len(blocks)), np.nan)
    for (layer, block), share in explanation.cells.items():
        totals[layer, blocks.index(block)] = share.total
    return totals


def _bars(explanation: Explanation) -> tuple[Mapping[str, Share], Mapping[str, Share]]:
    """Shares of the layers, and of the blocks and training hyper-parameters, by name."""
    layers = {str(layer): share for layer, share in explanation.layers.items()}
    return layers, {_words(k): share for k, share in {**explanation.blocks, **explanation.training}.items()}


def _add_heat(
    figure: Figure, explanation: Explanation, values: np.ndarray, hover: list[list[str]], column: int
) -> None:
    figure.add_heatmap(
        z=values.tolist(),
        x=[_words(block) for block in explanation.methods],
        y=list(range(len(values))),
        text=hover,
        hovertemplate="%{text}<extra></extra>",
        colorscale=_SCALE,
        zmin=0,
        zmax=1 if column == 1 else max(_DARKEST, float(np.nanmax(values))),
        colorbar={"len": 0.42, "y": 0.79, "x": 0.44 if column == 1 else 1.0, "thickness": 10},
        row=1,
        col=column,
    )
    figure.update_yaxes(title_text="layer", dtick=1, row=1, col=column)


def _add_bars(figure: Figure, shares: Mapping[str, Share], column: int) -> None:
    for attribute, name, colour in SERIES:
        figure.add_bar(
            name=name,
            x=list(shares),
            y=[getattr(share, attribute) for share in shares.values()],
            marker_color=colour,
            legendgroup=attribute,
            showlegend=column == 1,
            hovertemplate="%{x}: %{y:.3f}<extra>" + name + "</extra>",
            row=2,
            col=column,
        )
    figure.update_xaxes(type="category", row=2, col=column)
    figure.update_yaxes(title_text="share of variance", rangemode="tozero", row=2, col=column)


def _draw_heat(axes: Axes, explanation: Explanation, values: np.ndarray, sizes: np.ndarray | None) -> None:
    """`sizes` [L, B] are written beside the shares where there are any."""
    top = 1.0 if sizes is not None else max(_DARKEST, float(np.nanmax(values)))
    image: Any = axes.imshow(values, cmap=_SCALE, vmin=0, vmax=top, aspect="auto", origin="lower")
    axes.set_xticks(range(values.shape[1]), [_words(block) for block in explanation.methods])
    axes.set_yticks(range(values.shape[0]))
    axes.set_ylabel("layer")
    axes.figure.colorbar(image, ax=axes, shrink=0.8)
    if values.size > _NUMBERED:
        return
    for layer, block in np.ndindex(values.shape):
        value = values[layer, block]
        if np.isfinite(value) and (sizes is None or value > 0):
            text = f"{value:.2f}" if sizes is None else f"{value:.0%} (size {sizes[layer, block]:.3g})"
            colour = "white" if value > 0.6 * top else "black"
            axes.text(block, layer, text, ha="center", va="center", fontsize=7, color=colour)


def _draw_bars(axes: Axes, shares: Mapping[str, Share]) -> None:
    for i, (attribute, name, colour) in enumerate(SERIES):
        heights = [getattr(share, attribute) for share in shares.values()]
        axes.bar(np.arange(len(shares)) + 0.27 * (i - 1), heights, 0.27, label=name, color=colour)
    axes.set_xticks(range(len(shares)), list(shares), fontsize=8)
    axes.set_ylabel("share of variance")
    axes.spines[["top", "right"]].set_visible(False)


def _use_hover(explanation: Explanation) -> list[list[str]]:
    front = explanation.front
    return [
        [
            f"layer {layer}, {_words(block)}: {count} of {front.members}" + (f", mean size {size:.3g}" if count else "")
            for block, count, size in zip(explanation.methods, counts, sizes, strict=True)
        ]
        for layer, (counts, sizes) in enumerate(zip(front.counts, front.sizes, strict=True))
    ]


def _cell_hover(explanation: Explanation) -> list[list[str]]:
    def text(layer: int, block: str) -> str:
        share = explanation.cells.get((layer, block))
        if share is None:
            return f"layer {layer}, {_words(block)}: no choice"
        values = [f"{name} {getattr(share, attribute):.3f}" for attribute, name, _ in SERIES]
        return "<br>".join([f"layer {layer}, {_words(block)}", *values])

    return [[text(layer, block) for block in explanation.methods] for layer in range(len(explanation.front.counts))]


def _titles(explanation: Explanation) -> list[str]:
    cells = "share of variance: block in layer (with interactions)" if explanation.cells else ""
    members = explanation.front.members
    return [f"front ({members} members): share that has the block", cells, "layers", "blocks and training"]


def _title(explanation: Explanation) -> str:
    stopped = f", {explanation.stopped} of them stopped early" if explanation.stopped else ""
    return f"What {_words(explanation.score)} depends on ({explanation.observations} evaluations{stopped})"


def _quality(explanation: Explanation) -> str:
    q = explanation.quality
    return (
        f"surrogate: leave-one-out R2 {q.surrogate_r2:.2f}, rank correlation {q.surrogate_rank:.2f}; "
        f"forest: out-of-bag R2 {q.forest_r2:.2f}"
    )


def _words(name: str) -> str:
    return name.replace("_", " ")
