"""Bars of one metric with its interval, grouped: `metric`, `x` (key), `series` (key)."""
import textwrap

import numpy as np

from .. import describe, style
from ..results import ResultError


def draw(points, spec):
    metric = describe.metric_of(points, spec, lambda row: row["dir"] == "higher" and row["kind"] == "ratio")
    points = [p for p in points if metric in p.summary]
    if not points:
        raise ResultError(f"plot 'throughput': no result has a summary of '{metric}'")
    x_key = spec.get("x")
    xs = list(dict.fromkeys(describe.series_of(p, x_key) for p in points))
    groups = describe.grouped(points, spec.get("series")) if spec.get("series") else {"": points}
    fig, ax = style.figure()
    width = 0.8 / len(groups)
    for i, (label, group) in enumerate(groups.items()):
        for k, point in enumerate(group):
            row = point.summary[metric]
            at = xs.index(describe.series_of(point, x_key)) + (i - (len(groups) - 1) / 2) * width
            below, above = describe.interval(row)
            ax.bar(at, row["value"], width * 0.92, color=style.color(i), hatch=style.HATCH[row["scope"]],
                   edgecolor="white", linewidth=0.6, label=label if label and k == 0 else None)
            ax.errorbar(at, row["value"], [[below], [above]], color=style.INK, linewidth=1)
            style.note(ax, describe.short(row["value"]), (at, row["value"] + above), (0, 2), ha="center", va="bottom")
    numbers = [p.summary[metric]["value"] for p in points]
    if min(numbers) > 0 and max(numbers) / min(numbers) > 30:
        style.plain_log(ax.yaxis)
    ax.margins(y=0.12)
    rotated = len(xs) > 6
    ax.set_xticks(np.arange(len(xs)), [str(x) if rotated else textwrap.fill(str(x), 76 // len(xs)) for x in xs])
    if rotated:
        ax.tick_params(axis="x", labelrotation=20)
    ax.grid(axis="x", visible=False)
    ax.set_ylabel(describe.axis_label(points, metric))
    handles, labels = style.legend_scopes(ax, [p.summary[metric]["scope"] for p in points])
    if labels:
        ax.legend(handles, labels, ncol=min(4, len(labels)), loc="upper center", bbox_to_anchor=(0.5, -0.09))
    return fig, describe.title(points, spec, metric.replace("_", " ")), describe.caption(
        points, describe.launches(points), describe.levels([p.summary[metric]["level"] for p in points]))
