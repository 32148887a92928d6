"""Bars of one metric with its interval, grouped: `metric`, `x` (key), `series` (key)."""
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
    fig, ax = style.figure(height=max(2.6, 1.4 + (0.1 + 0.2 * len(groups)) * len(xs)))
    high = 0.84 / len(groups)
    for i, (label, group) in enumerate(groups.items()):
        for k, point in enumerate(group):
            row = point.summary[metric]
            at = xs.index(describe.series_of(point, x_key)) + (i - (len(groups) - 1) / 2) * high
            below, above = describe.interval(row)
            ax.barh(at, row["value"], high * 0.92, color=style.color(i), hatch=style.HATCH[row["scope"]],
                    edgecolor="white", linewidth=0.6, label=label if label and k == 0 else None)
            ax.errorbar(row["value"], at, xerr=[[below], [above]], color=style.INK, linewidth=1)
            style.note(ax, describe.short(row["value"]), (row["value"] + above, at), (3, 0))
    numbers = [p.summary[metric]["value"] for p in points]
    if min(numbers) > 0 and max(numbers) / min(numbers) > 30:
        style.plain_log(ax.xaxis)
    else:
        ax.xaxis.set_major_formatter("{x:,.10g}")
    ax.margins(x=0.12)
    ax.set_yticks(range(len(xs)), xs)
    ax.set_ylim(len(xs) - 0.4, -0.6)
    ax.grid(axis="y", visible=False)
    ax.set_xlabel(describe.axis_label(points, metric))
    handles, labels = style.legend_scopes(ax, [p.summary[metric]["scope"] for p in points])
    if labels:
        ax.legend(handles, labels, ncol=min(4, len(labels)), loc="lower right", bbox_to_anchor=(1, 1))
    return fig, describe.title(points, spec, metric.replace("_", " ")), describe.caption(
        points, describe.launches(points), describe.levels([p.summary[metric]["level"] for p in points]))
