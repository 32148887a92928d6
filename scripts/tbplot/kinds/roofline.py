"""Work done against work possible: a dot for each point with values roofline.flop, .bytes, .peak_gflops and
.peak_gb_per_s, at the speed that `metric` says (gflop_per_s); `series` names the colours. Peaks differ with dtype,
instructions and threads: both axes count in parts of the point's own peak, so that one roof fits all."""
import numpy as np

from .. import describe, style
from ..results import ResultError

MEMBERS = ("flop", "bytes", "peak_gflops", "peak_gb_per_s")


def dot(point, metric):
    """(intensity against the ridge, share of the peak), or None."""
    flop, size, peak, stream = (point.value(f"roofline.{m}", 0) for m in MEMBERS)
    row = point.summary.get(metric)
    return (flop / size * stream / peak, row["value"] / peak) if row and min(flop, size, peak, stream) > 0 else None


def draw(points, spec):
    dots = [(p, dot(p, spec.get("metric", "gflop_per_s"))) for p in points]
    dots = [(p, at) for p, at in dots if at]
    if not dots:
        raise ResultError("plot 'roofline': no result has a speed and roofline." + ", .".join(MEMBERS))
    x, y = np.array([at for _, at in dots]).T
    span = np.array([min(x.min(), 1) / 2, 1, max(x.max(), 1) * 2])
    fig, ax = style.figure(width=8.2, height=4.4)
    ax.plot(span, np.minimum(1, span), color=style.INK, linewidth=1.6)
    style.note(ax, "peak", (span[-1], 1), (0, 3), ha="right", va="bottom")
    style.note(ax, "read bandwidth", (span[0], span[0]), (10, 2))
    series = list(dict.fromkeys(describe.series_of(p, spec.get("series")) for p, _ in dots))
    for i, name in enumerate(series):
        mine = [at for p, at in dots if describe.series_of(p, spec.get("series")) == name]
        share = [100 * rate / min(1, intensity) for intensity, rate in mine]
        reach = f"{min(share):.0f}" + (f" to {max(share):.0f}" if len(share) > 1 else "")
        ax.plot(*np.array(mine).T, style.marker(i), color=style.color(i), markersize=6, linestyle="none",
                label=f"{name}: {reach} % of the roof")
    ax.set_ylim(min(y.min(), span[0]) / 1.5, 1.6)
    style.plain_log(ax.xaxis)
    style.plain_log(ax.yaxis)
    ax.set_xlabel("FLOP per byte of the operands, in parts of the ridge's")
    ax.set_ylabel("share of the peak")
    ax.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    return fig, describe.title(points, spec, "roofline"), describe.caption(
        points, "roof: multiply-adds of the dtype and ISA, reading at the operands' size, measured around each point",
        describe.launches(points))
