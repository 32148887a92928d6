"""Geometric means over named points: `metric` (a list), `of` (a list of maps of keys to values: the points, one each),
`series` (the key of whose values each has a mean). A point that is missing or not ok leaves no mean."""
from .. import compare, describe, style
from ..results import NothingToDraw


def draw(points, spec):
    found = compare.geomeans(points, spec)
    if not any(mean for row in found.values() for mean in row.values()):
        raise NothingToDraw("a point of each mean is missing or not ok")
    bars = [(series, metric, mean) for series, row in found.items() for metric, mean in row.items()]
    fig, axes = style.figure(width=6.8, height=max(2.2, 1.4 + 0.42 * len(bars)), nrows=1, squeeze=False)
    ax = axes[0, 0]
    for i, (_, metric, mean) in enumerate(bars):
        if mean is None:
            style.note(ax, "a point is missing or not ok", (0, i), (5, 0))
            continue
        value, lo, hi, level = mean
        ax.barh(i, value, 0.66, color=style.color(spec["metric"].index(metric)), edgecolor="white", linewidth=0.6)
        if level > 0:
            ax.errorbar(value, i, xerr=[[value - lo], [hi - value]], color=style.INK, linewidth=1)
        style.note(ax, f"{value:.3g}x", (max(value, hi if level > 0 else 0), i), (5, 0))
    ax.set_yticks(range(len(bars)), [", ".join(filter(None, [s, m.replace("_", " ")])) for s, m, _ in bars])
    ax.set_ylim(len(bars) - 0.3, -0.7)
    ax.grid(axis="y", visible=False)
    ax.set_xlim(0, 1.3 * max([1, *[b[2][0] for b in bars if b[2]]]))
    ax.axvline(1, color=style.INK, linewidth=1, linestyle="--")
    ax.set_xlabel(f"geometric mean over {len(spec['of'])} points")
    return fig, describe.title(points, spec, "geometric means"), describe.caption(
        points, describe.launches(points), "bars: means of the ends of the points' intervals", "dashed: no change")
