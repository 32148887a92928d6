"""Work done against work possible: a dot for each point with values roofline.flop, .bytes, .peak_gflops and
.peak_gb_per_s, at the speed that `metric` says (gflop_per_s); `series` names the colours. Peaks differ with dtype,
instructions and threads: both axes count in parts of the point's own peak, so that one roof fits all.

With `arms` (map of arms to what the key calls them) a point does the same work several ways: a line of dots for each,
from values roofline.flop and roofline.bytes.<arm> and the metric <arm>_us, under the peaks roofline.peak_gflops.f32 and
.i8 and the slopes roofline.peak_gb_per_s.l2 and .memory."""
import numpy as np

from .. import describe, style
from ..results import ResultError

MEMBERS = ("flop", "bytes", "peak_gflops", "peak_gb_per_s")
PEAKS = {"f32": "f32 FMA", "i8": "u8 x s8"}
SLOPES = {"l2": "read from L2", "memory": "read from memory"}


def dot(point, metric):
    """(intensity against the ridge, share of the peak), or None."""
    flop, size, peak, stream = (point.value(f"roofline.{m}", 0) for m in MEMBERS)
    row = point.summary.get(metric)
    return (flop / size * stream / peak, row["value"] / peak) if row and min(flop, size, peak, stream) > 0 else None


def arm_dots(point, arms):
    """[(arm, operations per byte, billions a second)] of the arms that the point has."""
    flop, found = point.value("roofline.flop", 0), []
    for arm in arms:
        size, row = point.value(f"roofline.bytes.{arm}", 0), point.summary.get(f"{arm}_us")
        if row and min(flop, size) > 0:
            found.append((arm, flop / size, flop / row["value"] / 1e3))
    return found


def limits(points, name, words):
    """[(what it is called, median over the points)] of those that were measured."""
    found = {key: [p.value(f"roofline.{name}.{key}", 0) for p in points] for key in words}
    return [(words[key], float(np.median(values))) for key, values in found.items() if min(values) > 0]


def finish(ax, x, y):
    style.plain_log(ax.xaxis)
    style.plain_log(ax.yaxis)
    ax.set_xlabel(x)
    ax.set_ylabel(y)
    ax.legend(loc="center left", bbox_to_anchor=(1, 0.5))


def draw_arms(points, spec):
    lines = [(p, arm_dots(p, spec["arms"])) for p in points]
    without = [describe.series_of(p, spec.get("series")) for p, dots in lines if not dots]
    lines = [(p, dots) for p, dots in lines if dots]
    peaks = limits([p for p, _ in lines], "peak_gflops", PEAKS) if lines else []
    slopes = limits([p for p, _ in lines], "peak_gb_per_s", SLOPES) if lines else []
    if not peaks or not slopes:
        raise ResultError("plot 'roofline': no result has roofline.flop, .bytes.<arm>, .peak_gflops.* and "
                          ".peak_gb_per_s.*; recordings of older programs have none: run the experiment anew")
    x = np.array([at for _, dots in lines for _, at, _ in dots])
    y = np.array([rate for _, dots in lines for _, _, rate in dots])
    low, steepest, highest = y.min() / 2, slopes[0][1], peaks[-1][1]
    span = np.geomspace(min(x.min() / 2, low / steepest), max(x.max(), highest / slopes[-1][1]) * 2, 400)
    fig, ax = style.figure(width=8.8, height=4.8)
    for words, read in slopes:
        ax.plot(span, np.minimum(highest, span * read), color=style.INK, linewidth=1.2)
        style.note(ax, words, (low * 1.25 / read, low * 1.25), (5, 0))
    for words, peak in peaks:
        reached = span[span * steepest >= peak]
        ax.plot(reached, np.full(reached.size, peak), color=style.INK, linewidth=1.2)
        style.note(ax, words, (span[-1], peak), (0, 6), ha="right", va="bottom")
    for i, (point, dots) in enumerate(lines):
        ax.plot([at for _, at, _ in dots], [rate for _, _, rate in dots], color=style.color(i), linewidth=0.8,
                label=describe.series_of(point, spec.get("series")))
        for arm, at, rate in dots:
            ax.plot(at, rate, style.marker(list(spec["arms"]).index(arm)), color=style.color(i), markersize=6)
    for i, words in enumerate(spec["arms"].values()):
        ax.plot([], [], style.marker(i), color=style.INK, markersize=6, linestyle="none", label=words)
    ax.set_ylim(low, highest * 1.6)
    finish(ax, "operations of the products per byte of operands and results", "billion operations a second")
    return fig, describe.title(points, spec, "roofline"), describe.caption(
        points, "operations: of the products, two a multiply-add, the same in every arm; bytes: what each node of the "
        "arm's graph reads and writes, once (eager: the graph before fusion); limits: measured in each launch, median",
        f"recorded without these values: {', '.join(without)}" if without else "", describe.launches(points))


def draw(points, spec):
    if spec.get("arms"):
        return draw_arms(points, spec)
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
    finish(ax, "FLOP per byte of the operands, in parts of the ridge's", "share of the peak")
    return fig, describe.title(points, spec, "roofline"), describe.caption(
        points, "roof: multiply-adds of the dtype and ISA, reading at the operands' size, measured around each point",
        describe.launches(points))
