"""Latency percentiles against the offered rate: `metric` (a sample a request; or a list of metrics that are percentiles,
"p95_ms"), `x` (key, requests/s), `series`, `slo` (in the metric's unit), `quantiles` (of a single metric), `knee` (a
metric: the rate that the objective allows, of points that measured it)."""
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


def draw_knees(ax, groups, metric):
    """A vertical line at the median rate of each series that measured it."""
    for i, (label, group) in enumerate(groups.items()):
        measured = [p for p in group if len(p.launch_numbers(metric))]
        if measured:
            rate = np.median(np.concatenate([p.launch_numbers(metric) for p in measured]))
            name = ", ".join(filter(None, [label, measured[0].get("params.slo")]))
            ax.axvline(rate, color=style.color(i), linestyle="-.", linewidth=1.2,
                       label=f"{name or 'objective'} holds to {describe.short(rate)}/s")


def draw(points, spec):
    of, metric = curves(points, spec)
    x_key = spec.get("x", "params.rate")
    groups = describe.grouped(points, spec["series"]) if spec.get("series") else {"": points}
    many = len(groups) * len(of) > 6
    fig, ax = style.figure(width=9.4 if many else 6.8, height=4.8)
    found, shown = [], 0
    for i, (label, group) in enumerate(groups.items()):
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
            shade = style.color(i if len(groups) > 1 else k)
            name = ", ".join(filter(None, [label, quantile]))
            ax.fill_between(at, lo, hi, color=shade, alpha=0.15, linewidth=0)
            ax.plot(at, middle, marker=style.marker(k), markersize=4.5, color=shade, label=name,
                    linestyle=["-", "--", ":", "-."][k % 4] if len(groups) > 1 else "-")
        shown += bool(group)
    if not shown:
        raise ResultError(f"plot 'latency': no result has samples of '{metric}'")
    if spec.get("knee"):
        draw_knees(ax, groups, spec["knee"])
    if spec.get("slo") is not None:
        ax.axhline(spec["slo"], color=style.INK, linestyle="--", linewidth=1)
        style.note(ax, f"target {spec['slo']:g}", (0, spec["slo"]), (4, 3), va="bottom",
                   xycoords=("axes fraction", "data"))
    style.plain_log(ax.yaxis)
    if spec.get("knee"):
        style.plain_log(ax.xaxis)
    ax.set_xlabel(f"offered {describe.name_of(x_key)} (requests/s)")
    ax.set_ylabel("latency (ms)" if isinstance(spec.get("metric"), list) else describe.axis_label(points, metric))
    ax.legend(**({"fontsize": 7, "loc": "upper left", "bbox_to_anchor": (1.01, 1.02)} if many else {}))
    return fig, describe.title(points, spec, "latency under load"), describe.caption(
        points, "latency counts from the intended send time", describe.launches(points),
        describe.levels(found).replace("bars", "bands"))
