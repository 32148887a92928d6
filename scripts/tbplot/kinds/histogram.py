"""Distribution of all samples of a metric: `metric`, `series`, `bins`, `log` (x axis). Nothing is trimmed."""
import numpy as np

from .. import describe, style
from ..results import ResultError


def draw(points, spec):
    metric = describe.metric_of(points, spec, lambda row: row["unit"] in ("ns", "us", "ms", "s"))
    pooled = {}
    for label, group in describe.grouped(points, spec.get("series")).items():
        parts = [values for point in group for _, values in point.series(metric)]
        if parts:
            pooled[label] = np.concatenate(parts)
    if not pooled:
        raise ResultError(f"plot 'histogram': no result has samples of '{metric}'")
    everything = np.concatenate(list(pooled.values()))
    lo, hi, middle = everything.min(), everything.max(), np.median(everything)
    log = spec.get("log", lo >= 0 and middle > 0 and hi / middle > 20)
    if log:  # what is not positive is counted in the first bin
        lo = everything[everything > 0].min()
    edges = (np.geomspace if log else np.linspace)(lo, hi, spec.get("bins", 60) + 1)
    if lo == hi:
        edges = np.array([lo - 0.5, lo + 0.5])
    fig, ax = style.figure()
    for i, (label, x) in enumerate(pooled.items()):
        share = np.histogram(np.maximum(x, edges[0]), edges)[0] / len(x)
        ax.stairs(share, edges, color=style.color(i), fill=True, alpha=0.16)
        ax.stairs(share, edges, color=style.color(i), linewidth=1.4, label=f"{label} (n = {len(x)})")
        for q, line in ((0.5, "-"), (0.95, "--")):
            ax.axvline(np.quantile(x, q), ymax=0.06, color=style.color(i), linestyle=line, linewidth=2)
    if log:
        style.plain_log(ax.xaxis)
    ax.set_xlabel(describe.axis_label(points, metric))
    ax.set_ylabel("share of samples")
    ax.legend()
    return fig, describe.title(points, spec, f"distribution of {metric.replace('_', ' ')}"), describe.caption(
        points, "all samples of all launches after warm-up, none removed",
        "ticks at the foot: median (full) and p95 (dashed)")
