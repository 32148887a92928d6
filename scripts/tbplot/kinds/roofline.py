"""Work done against work possible: values roofline.peak_gflops and roofline.peak_gb_per_s (measured in the same run),
and for each kernel roofline.<kernel>.flop, .bytes and .ns."""
import numpy as np

from .. import describe, style
from ..results import ResultError


def dots(point):
    found = {}
    for name in {v["name"] for v in point.values}:
        kernel, _, member = name.removeprefix("roofline.").rpartition(".")
        if name.startswith("roofline.") and member in ("flop", "bytes", "ns"):
            found.setdefault(kernel, {})[member] = point.value(name)
    return {k: (v["flop"] / v["bytes"], v["flop"] / v["ns"]) for k, v in sorted(found.items()) if len(v) == 3}


def draw(points, spec):
    peak = max((p.value("roofline.peak_gflops", 0) for p in points), default=0)
    stream = max((p.value("roofline.peak_gb_per_s", 0) for p in points), default=0)
    kernels = {(p.label, k): at for p in points for k, at in dots(p).items()}
    if not peak or not stream or not kernels:
        raise ResultError("plot 'roofline': no result has roofline.peak_gflops, roofline.peak_gb_per_s and kernels")
    ridge = peak / stream
    x = np.array([at[0] for at in kernels.values()])
    span = np.array([min(x.min(), ridge) / 4, ridge, max(x.max(), ridge) * 4])
    fig, ax = style.figure()
    ax.plot(span, np.minimum(peak, span * stream), color=style.INK, linewidth=1.6)
    style.note(ax, f"{peak:.4g} GFLOP/s", (span[-1], peak), (0, 3), ha="right", va="bottom")
    style.note(ax, f"{stream:.3g} GB/s", (span[0], span[0] * stream), (14, 4))
    labels = list(dict.fromkeys(k for _, k in kernels))
    for (label, kernel), (intensity, rate) in kernels.items():
        i = labels.index(kernel)
        share = rate / min(peak, intensity * stream)
        ax.plot(intensity, rate, style.marker(i), color=style.color(i), markersize=7, linestyle="none",
                label=f"{kernel}: {100 * share:.0f} % of the roof" + (f" ({label})" if len(points) > 1 else ""))
    style.plain_log(ax.xaxis)
    style.plain_log(ax.yaxis)
    ax.set_xlabel("intensity (FLOP per byte)")
    ax.set_ylabel("rate (GFLOP/s)")
    ax.legend(loc="lower right")
    return fig, describe.title(points, spec, "roofline"), describe.caption(
        points, "roof: peak of FMA and of stream, measured in the same run", describe.launches(points))
