"""Accuracy against speed, a panel a point, named by the key `panel`: `time` (map of metrics, microseconds a call, to
the value that says how good the answers are; an empty one draws a line: its speed alone was measured), `rows` (key of
the rows of a call), `where` (map of keys to values that a point must have), `names` (map of metrics to what the key
calls them)."""
import math

from .. import describe, style


def speed(point, metric, rows):
    """Rows a second, and how far its interval reaches below and above."""
    row = point.summary[metric]
    rate = 1e6 * rows / row["value"]
    if row["level"] <= 0 or math.isnan(row["lo"]):
        return rate, 0, 0
    return rate, max(0, rate - 1e6 * rows / row["hi"]), max(0, 1e6 * rows / row["lo"] - rate)


def words(metric, spec):
    return spec.get("names", {}).get(metric, metric.removesuffix("_us").replace("_", " "))


def draw_panel(ax, point, spec):
    for i, (metric, quality) in enumerate(spec["time"].items()):
        if metric not in point.summary:
            continue
        rate, below, above = speed(point, metric, float(point.get(spec["rows"])))
        y = point.value(quality) if quality else None
        if y is None:
            ax.axvline(rate, color=style.color(i), linestyle=":", label=words(metric, spec))
        else:
            ax.errorbar(rate, y, xerr=[[below], [above]], color=style.color(i), marker=style.marker(i), markersize=6,
                        linestyle="none", label=words(metric, spec))
    style.plain_log(ax.xaxis)
    ax.tick_params(axis="x", labelsize=7.5, labelrotation=30)
    ax.margins(0.12)
    ax.ticklabel_format(axis="y", useOffset=False)
    low, high = ax.get_ylim()
    if high - low < 0.004:  # tenths of a point look like tenths of a point
        ax.set_ylim((low + high) / 2 - 0.002, (low + high) / 2 + 0.002)
    ax.set_title(describe.series_of(point, spec.get("panel")).replace(":", "\n", 1), fontsize=7.5)


def draw(points, spec):
    columns = 2 if len(points) in (2, 4) else min(3, len(points))
    lines = math.ceil(len(points) / columns)
    fig, axes = style.figure(height=1.4 + 2.2 * lines, nrows=lines, ncols=columns, squeeze=False)
    for ax, point in zip(axes.flat, points):
        draw_panel(ax, point, spec)
    for ax in axes.flat[len(points):]:
        ax.set_visible(False)
    shown = list(axes.flat[:len(points)])
    handles = {label: h for ax in shown for h, label in zip(*ax.get_legend_handles_labels())}
    names = [name for name in (words(metric, spec) for metric in spec["time"]) if name in handles]
    shown[columns - 1].legend([handles[n] for n in names], names, loc="center left", bbox_to_anchor=(1.02, 0.5))
    for ax in axes[:, 0]:
        ax.set_ylabel("accuracy")
    for ax in shown[-columns:]:
        ax.set_xlabel("rows a second")
    has_lines = "" in spec["time"].values()
    levels = [p.summary[m]["level"] for p in points for m in spec["time"] if m in p.summary]
    return fig, describe.title(points, spec, "accuracy against speed"), describe.caption(
        points, describe.launches(points), describe.levels(levels),
        has_lines and "dotted: speed alone, the accuracy of these was not measured; other engines in f32 stand at "
        "ours: their logits agree on the rows that were compared")
