"""How much faster or smaller than a base: `metric`, `base` (map of keys to values), `series` (keys that stay equal),
`label` (keys that name a bar). A ratio above 1 is an improvement: inverted where the metric's direction is lower. Without
a base: one or several metrics (`metric`: a list) that are ratios already, a bar for each and point."""
import math
import textwrap

from .. import compare, describe, style
from ..results import ResultError


def against_base(points, spec):
    metric, found = compare.ratios(points, spec)
    bars = [(compare.named(c, spec), c.point.summary[metric]["scope"], c.ratio, c.lo, c.hi, c.level) for c in found]
    return metric.replace("_", " "), bars


def already_ratios(points, spec):
    metrics = spec["metric"] if isinstance(spec["metric"], list) else [spec["metric"]]
    bars = []
    for point in points:
        for row in (point.summary[m] for m in metrics if m in point.summary):
            name = ", ".join([describe.series_of(point, spec.get("label")), row["metric"].replace("_", " ")])
            bars.append((name, row["scope"], row["value"], row["lo"], row["hi"], row["level"]))
    return ", ".join(m.replace("_", " ") for m in metrics), bars


def draw(points, spec):
    base_keys = spec.get("base") or {}
    what, bars = against_base(points, spec) if base_keys or not spec.get("metric") else already_ratios(points, spec)
    if not bars:
        raise ResultError(f"plot 'ratio': no result of '{what}'" + (f" matches the base {base_keys}" if base_keys else ""))
    fig, ax = style.figure(height=max(2.2, 1.4 + 0.42 * len(bars)))
    for i, (name, scope, ratio, lo, hi, level) in enumerate(bars):
        ax.barh(i, ratio, 0.6, color=style.color(0), hatch=style.HATCH[scope], edgecolor="white", linewidth=0.6)
        end = ratio
        if level > 0 and not math.isnan(lo):
            ax.errorbar(ratio, i, xerr=[[max(0, ratio - lo)], [max(0, hi - ratio)]], color=style.INK, linewidth=1)
            end = max(ratio, hi)
        style.note(ax, f"{ratio:.3g}x" + (f"  [{lo:.3g}, {hi:.3g}]" if level > 0 else ""), (end, i), (5, 0))
    ax.axvline(1, color=style.INK, linewidth=1, linestyle="--")
    ax.set_yticks(range(len(bars)), [b[0] for b in bars])
    ax.invert_yaxis()
    ax.grid(axis="y", visible=False)
    ax.set_xlim(0, max(1.1, max(max(b[2], 0 if math.isnan(b[4]) else b[4]) for b in bars) * 1.45))
    against = ", ".join(f"{describe.name_of(k)} {v}" for k, v in base_keys.items())
    ax.set_xlabel(textwrap.fill(f"{what}: improvement over {against}" if against else what, 60))
    handles, labels = style.legend_scopes(ax, [b[1] for b in bars])
    if labels:
        ax.legend(handles, labels, loc="lower right", bbox_to_anchor=(1, 1), borderaxespad=0.2)
    return fig, describe.title(points, spec, f"{what} against {against}" if against else what), describe.caption(
        points, "ratio of launches, " + describe.launches(points), describe.levels([b[5] for b in bars]),
        "dashed: no change")
