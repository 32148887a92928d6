"""Latency percentiles against the offered rate: `metric` (a sample a request), `x` (key, requests/s), `series`, `slo`
(in the metric's unit), `quantiles`."""
import numpy as np

from .. import describe, style
from ..results import ResultError, median_interval


def draw(points, spec):
    metric = describe.metric_of(points, spec, lambda row: "latency" in row["name"])
    x_key, quantiles = spec.get("x", "params.rate"), spec.get("quantiles", [0.5, 0.95, 0.99])
    groups = describe.grouped(points, spec["series"]) if spec.get("series") else {"": points}
    fig, ax = style.figure()
    drawn, found = False, []
    for i, (label, group) in enumerate(groups.items()):
        group = sorted((p for p in group if p.series(metric)), key=lambda p: p.get(x_key))
        for k, q in enumerate(quantiles):
            at, middle, lo, hi = [], [], [], []
            for point in group:
                numbers = np.array([np.quantile(values, q) for _, values in point.series(metric)])
                low, high, level = median_interval(numbers, describe.LEVEL)
                at.append(point.get(x_key))
                middle.append(np.median(numbers))
                lo.append(middle[-1] if np.isnan(low) else low)
                hi.append(middle[-1] if np.isnan(high) else high)
                found.append(level)
            if not at:
                continue
            drawn = True
            shade = style.color(i if len(groups) > 1 else k)
            name = ", ".join(filter(None, [label, f"p{100 * q:g}"]))
            ax.fill_between(at, lo, hi, color=shade, alpha=0.15, linewidth=0)
            ax.plot(at, middle, marker=style.marker(k), markersize=4.5, color=shade, label=name,
                    linestyle=["-", "--", ":", "-."][k % 4] if len(groups) > 1 else "-")
    if not drawn:
        raise ResultError(f"plot 'latency': no result has samples of '{metric}'")
    if spec.get("slo") is not None:
        ax.axhline(spec["slo"], color=style.INK, linestyle="--", linewidth=1)
        style.note(ax, f"target {spec['slo']:g}", (0, spec["slo"]), (4, 3), va="bottom",
                   xycoords=("axes fraction", "data"))
    style.plain_log(ax.yaxis)
    ax.set_xlabel(f"offered {describe.name_of(x_key)} (requests/s)")
    ax.set_ylabel(describe.axis_label(points, metric))
    ax.legend()
    return fig, describe.title(points, spec, "latency under load"), describe.caption(
        points, "latency counts from the intended send time", describe.launches(points),
        describe.levels(found).replace("bars", "bands"))
