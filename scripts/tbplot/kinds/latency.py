"""Latency percentiles against the offered rate: `metric` (a sample a request; or a list of metrics that are
percentiles, "p95_ms"), `x` (key, requests/s), `series`, `slo` (in the metric's unit), `quantiles` (of a single
metric), `knee` (a metric: the rate that the objective allows, of points that measured it)."""
import numpy as np

from .. import describe, style
from ..results import ResultError, median_interval


def curves(points, spec):
    """(name, function from a point to one number a launch) of each percentile."""
    if isinstance(spec.get("metric"), list):
        return [(m.split("_")[0], lambda p, m=m: p.launch_numbers(m)) for m in spec["metric"]], spec["metric"][0]
    metric = describe.metric_of(points, spec, lambda row: "latency" in row["name"])
    quantiles = spec.get("quantiles", [0.5, 0.95, 0.99])
    return [(f"p{100 * q:g}", lambda p, q=q: np.array([np.quantile(v, q) for _, v in p.series(metric)]))
            for q in quantiles], metric


LINES = ["-", "--", ":", "-."]


def draw_knee(ax, group, metric, color):
    """A vertical line at the median rate that the series was measured to hold; returns the words for the key."""
    measured = [p for p in group if len(p.launch_numbers(metric))]
    if not measured:
        return ""
    rate = np.median(np.concatenate([p.launch_numbers(metric) for p in measured]))
    ax.axvline(rate, color=color, linestyle=(0, (6, 2)), linewidth=1.1)
    objective = measured[0].get("params.slo", "").replace(":", " < ")  # "p95:25"
    return f"; {objective or 'objective'} to {describe.short(rate)}/s"


def keys(ax, of, several):
    """One line a series, and one a percentile where colours are for series."""
    if not several:
        ax.legend()
        return
    for k, (quantile, _) in enumerate(of):
        ax.plot([], [], color=style.INK, linestyle=LINES[k % 4], marker=style.marker(k), markersize=4.5, label=quantile)
    ax.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, fontsize=7.5, borderaxespad=0.2)


def draw(points, spec):
    of, metric = curves(points, spec)
    x_key = spec.get("x", "params.rate")
    groups = describe.grouped(points, spec["series"]) if spec.get("series") else {"": points}
    several = len(groups) > 1
    fig, ax = style.figure(width=8.2 if several else 6.8, height=5.6 if several else 4.8)
    unit = next((p.metrics[metric]["unit"] for p in points if metric in p.metrics), "ms")
    found, shown = [], 0
    for i, (label, group) in enumerate(groups.items()):
        knee = draw_knee(ax, group, spec["knee"], style.color(i)) if spec.get("knee") else ""
        group = sorted((p for p in group if len(of[0][1](p))), key=lambda p: p.get(x_key))
        for k, (quantile, numbers_of) in enumerate(of):
            at, middle, lo, hi = [], [], [], []
            for point in group:
                numbers = numbers_of(point)
                low, high, level = median_interval(numbers, describe.LEVEL)
                at.append(point.get(x_key))
                middle.append(np.median(numbers))
                lo.append(middle[-1] if np.isnan(low) else low)
                hi.append(middle[-1] if np.isnan(high) else high)
                found.append(level)
            if not at:
                continue
            shade = style.color(i if several else k)
            ax.fill_between(at, lo, hi, color=shade, alpha=0.15, linewidth=0)
            ax.plot(at, middle, marker=style.marker(k), markersize=4.5, color=shade,
                    linestyle=LINES[k % 4] if several else "-", label=None if several else quantile)
        if several and (group or knee):
            ax.plot([], [], color=style.color(i), linewidth=4, label=label + knee)
        shown += bool(group)
    if not shown:
        raise ResultError(f"plot 'latency': no result has samples of '{metric}'")
    if spec.get("slo") is not None:
        ax.axhline(spec["slo"], color=style.INK, linestyle="--", linewidth=1)
        style.note(ax, f"objective {spec['slo']:g} {unit}", (0, spec["slo"]), (4, 3), va="bottom",
                   xycoords=("axes fraction", "data"))
    style.plain_log(ax.yaxis)
    if spec.get("knee"):
        style.plain_log(ax.xaxis)
    ax.set_xlabel(f"offered {describe.name_of(x_key)} (requests/s)")
    ax.set_ylabel(f"latency ({unit})")
    keys(ax, of, several)
    return fig, describe.title(points, spec, "latency under load"), describe.caption(
        points, "latency counts from the intended send time", describe.launches(points),
        describe.levels(found).replace("bars", "bands"),
        "upright lines: the highest rate that held the objective" if spec.get("knee") else "")
