"""Latency by percentile, corrected (from the intended send time) and uncorrected (from the real one, what a closed loop
would tell): values `corrected_ms.<quantile>`, `uncorrected_ms.<quantile>`; `series`."""
import numpy as np

from .. import describe, style
from ..results import ResultError


def draw(points, spec):
    many = len(points) > 6
    fig, ax = style.figure(height=4.8 if many else 4.4, width=9.4 if many else 6.8)
    ticks, shown = set(), 0
    for point in points:
        label = describe.series_of(point, spec.get("series"))
        for prefix, line in (("corrected_ms.", "-"), ("uncorrected_ms.", ":")):
            ranks = point.values_by_rank(prefix)
            if not ranks:
                continue
            spectrum = sorted((float(q), ms) for q, ms in ranks[min(ranks)].items())
            at = [1 / (1 - q) for q, _ in spectrum]
            ticks.update(q for q, _ in spectrum)
            turn = shown // len(style.COLORS)  # where colours repeat, marks tell series apart
            ax.plot(at, [ms for _, ms in spectrum], line, color=style.color(shown), marker=style.marker(turn),
                    markersize=2.5 + 2 * turn, label=label if line == "-" else None)
        shown += bool(point.values_by_rank("corrected_ms."))
    if not shown:
        raise ResultError("plot 'spectrum': no result has values 'corrected_ms.<quantile>'")
    style.plain_log(ax.yaxis)
    ax.set_xscale("log")
    wanted = [q for q in (0.5, 0.9, 0.99, 0.999, 0.9999) if q <= max(ticks)]
    ax.set_xticks([1 / (1 - q) for q in wanted], [f"p{100 * q:g}" for q in wanted])
    ax.set_xticks([], minor=True)
    ax.set_xlim(left=1 / (1 - min(ticks)))
    ax.set_ylabel("latency (ms)")
    ax.plot(np.nan, np.nan, ":", color=style.INK, label="dotted: from the real send time")
    ax.legend(fontsize=7, **({"loc": "upper left", "bbox_to_anchor": (1.01, 1.02)} if many else {}))
    return fig, describe.title(points, spec, "latency by percentile"), describe.caption(
        points, "full lines count from the intended send time, dotted ones from the real one",
        "all measured iterations of the first launch that counts; percentiles with at least 10 requests beyond")
