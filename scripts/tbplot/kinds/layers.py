"""Time of each layer, a panel a point, named by the key `panel`: values layer_us.<arm>.<layer>, a bar for each arm of
`arms` (map of arms to what the key calls them), the layers that take the longest first, the last bars together."""
import math

import numpy as np

from .. import describe, style
from ..results import ResultError

MOST = 8  # bars of a panel


def times(point, arms):
    """[(layer, [microseconds of each arm])], the longest first."""
    ranks = point.values_by_rank("layer_us.") or {}
    found = {}
    for name, us in (ranks[min(ranks)] if ranks else {}).items():
        arm, layer = name.split(".", 1)
        if arm in arms:
            found.setdefault(layer, [0.0] * len(arms))[list(arms).index(arm)] += us
    rows = sorted(found.items(), key=lambda row: -max(row[1]))
    if len(rows) > MOST:
        rest = np.sum([us for _, us in rows[MOST - 1:]], axis=0)
        rows = rows[:MOST - 1] + [(f"{len(rows) - MOST + 1} others", list(rest))]
    return rows


def draw_panel(ax, rows, arms, title):
    place, high = np.arange(len(rows)), 0.8 / len(arms)
    for i, words in enumerate(arms.values()):
        ax.barh(place + (i - (len(arms) - 1) / 2) * high, [us[i] for _, us in rows], high, color=style.color(i),
                label=words)
    ax.set_yticks(place, [layer for layer, _ in rows], fontsize=7)
    ax.tick_params(axis="x", labelsize=7.5)
    ax.invert_yaxis()
    ax.grid(axis="y", visible=False)
    ax.set_title(title, fontsize=6.5)


def draw(points, spec):
    panels = [(p, times(p, spec["arms"])) for p in points]
    panels = [(p, rows) for p, rows in panels if rows]
    if not panels:
        raise ResultError("plot 'layers': no result has values 'layer_us.<arm>.<layer>' of its arms")
    columns = min(3, len(panels))
    lines = math.ceil(len(panels) / columns)
    fig, axes = style.figure(width=9.4, height=1.2 + 2.3 * lines, nrows=lines, ncols=columns, squeeze=False)
    for ax, (point, rows) in zip(axes.flat, panels):
        draw_panel(ax, rows, spec["arms"], describe.series_of(point, spec.get("panel")).replace(":", "\n", 1))
    for ax in axes.flat[len(panels):]:
        ax.set_visible(False)
    for ax in list(axes.flat[:len(panels)])[-columns:]:
        ax.set_xlabel("us a call")
    fig.legend(*axes[0, 0].get_legend_handles_labels(), loc="upper right", ncols=len(spec["arms"]))
    return fig, describe.title(points, spec, "time of each layer"), describe.caption(
        points, "a product with what is fused to it has the layer's name, all else the op's; the least of a few runs "
        "for each, so that bars add up to less than a call", "first launch that counts")
