"""How much faster or smaller than a base: `metric`, `base` (map of keys to values), `series` (keys that stay equal),
`label` (keys that name a bar). A ratio above 1 is an improvement: inverted where the metric's direction is lower."""
import math

from .. import describe, style
from ..results import ResultError, ratio_interval


def draw(points, spec):
    metric = describe.metric_of(points, spec, lambda row: row["kind"] == "ratio")
    base_keys = spec.get("base") or {}
    bars = []
    groups = describe.grouped(points, spec["series"]) if spec.get("series") else {"": points}
    for label, group in groups.items():
        base = next((p for p in group if all(p.get(k) == v for k, v in base_keys.items())), None)
        if not base_keys or base is None or not len(base.launch_numbers(metric)):
            continue
        for point in group:
            if point is base or not len(point.launch_numbers(metric)):
                continue
            smaller_is_better = point.metrics[metric]["dir"] == "lower"
            name = ", ".join(filter(None, [label, describe.series_of(point, spec.get("label") or list(base_keys))]))
            bars.append((name, point.summary[metric]["scope"],
                         *ratio_interval(base, point, metric, describe.LEVEL, inverse=smaller_is_better)))
    if not bars:
        raise ResultError(f"plot 'ratio': no result of '{metric}' matches the base {base_keys}")
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
    ax.set_xlim(0, max(1.1, max(max(b[2], 0 if math.isnan(b[4]) else b[4]) for b in bars) * 1.28))
    against = ", ".join(f"{describe.name_of(k)} {v}" for k, v in base_keys.items())
    ax.set_xlabel(f"{metric.replace('_', ' ')}: improvement over {against}")
    handles, labels = style.legend_scopes(ax, [b[1] for b in bars])
    if labels:
        ax.legend(handles, labels, loc="lower right", bbox_to_anchor=(1, 1), borderaxespad=0.2)
    return fig, describe.title(points, spec, f"{metric.replace('_', ' ')} against {against}"), describe.caption(
        points, "ratio of launches, " + describe.launches(points), describe.levels([b[5] for b in bars]),
        "dashed: no change")
