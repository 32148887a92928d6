"""How much faster or smaller than a base: `metric`, `base` (map of keys to values), `series` (keys that stay equal),
`label` (keys that name a bar). A ratio above 1 is an improvement: inverted where the metric's direction is lower.
Without a base: one or several metrics (`metric`: a list) that are ratios already, a bar for each and point, colours by
metric. `panels`: keys that split the bars, each part on a scale of its own. `marks`: values of a point that a tick in
its bar shows, such as what its ratio was to reach."""
import math
import textwrap

from .. import compare, describe, style
from ..results import ResultError


def against_base(points, spec):
    metric, found = compare.ratios(points, spec)
    bars = [(compare.named(c, spec), c.point, c.point.summary[metric]["scope"], c.ratio, c.lo, c.hi, c.level) for c in found]
    return metric.replace("_", " "), bars, []


def already_ratios(points, spec):
    metrics = spec["metric"] if isinstance(spec["metric"], list) else [spec["metric"]]
    bars = []
    for point in points:
        rows = [point.summary[m] for m in metrics if m in point.summary]
        for k, row in enumerate(rows):
            name = describe.series_of(point, spec.get("label")) if k == len(rows) // 2 else ""
            bars.append((name, point, row["scope"], row["value"], row["lo"], row["hi"], row["level"], row["metric"]))
    return ", ".join(m.replace("_", " ") for m in metrics), bars, metrics if len(metrics) > 1 else []


def draw_marks(ax, i, point, names):
    """A tick for each value that the point has; the key is the first bar's."""
    for k, name in enumerate(names):
        value = point.value(name, 0)
        if value > 0:
            ax.plot([value, value], [i - 0.38, i + 0.38], color=style.color(5 - 4 * k), linewidth=2, solid_capstyle="butt",
                    label=name if name not in ax.get_legend_handles_labels()[1] else None)


def draw_bar(ax, i, bar, colored, marks):
    """Returns how far to the right it reaches, its marks included."""
    _, point, scope, ratio, lo, hi, level, *metric = bar
    name = metric[0].replace("_", " ") if colored else None
    ax.barh(i, ratio, 0.9 if colored else 0.66, color=style.color(colored.index(metric[0]) if colored else 0),
            hatch=style.HATCH[scope], edgecolor="white", linewidth=0.6,
            label=name if name not in ax.get_legend_handles_labels()[1] else None)
    end = ratio
    if level > 0 and not math.isnan(lo):
        ax.errorbar(ratio, i, xerr=[[max(0, ratio - lo)], [max(0, hi - ratio)]], color=style.INK, linewidth=1)
        end = max(ratio, hi)
    draw_marks(ax, i, point, marks)
    end = max([end, *[point.value(m, 0) for m in marks]])
    style.note(ax, f"{ratio:.3g}x" + (f"  [{lo:.3g}, {hi:.3g}]" if level > 0 else ""), (end, i), (5, 0))
    return end


def draw_panel(ax, bars, colored, marks, room):
    """room: of the axis, in parts of the longest bar; the rest is for what is written beside it."""
    far = max(draw_bar(ax, i, bar, colored, marks) for i, bar in enumerate(bars))
    ax.axvline(1, color=style.INK, linewidth=1, linestyle="--")
    named = [i for i, b in enumerate(bars) if b[0]]
    ax.set_yticks(named, [bars[i][0] for i in named])
    ax.set_ylim(len(bars) - 0.3, -0.7)
    ax.grid(axis="y", visible=False)
    ax.set_xlim(0, max(1.1, far * room))
    least = min(b[3] for b in bars)
    if far > 20 * least:
        ax.set_xlim(0.5 * least, far * 12)
        style.plain_log(ax.xaxis)


def panels_of(bars, keys):
    """{title: bars}, each panel with a scale of its own; one without a title where no keys are given."""
    panels = {}
    for bar in bars:
        panels.setdefault(describe.series_of(bar[1], keys) if keys else "", []).append(bar)
    return panels


def draw(points, spec):
    base_keys = spec.get("base") or {}
    take = against_base if base_keys or not spec.get("metric") else already_ratios
    what, bars, colored = take(points, spec)
    if not bars:
        base = f" matches the base {base_keys}" if base_keys else ""
        raise ResultError(f"plot 'ratio': no result of '{what}'{base}")
    panels = panels_of(bars, spec.get("panels"))
    row = 0.2 if colored else 0.42 if len(bars) < 20 else 0.26
    high = max(2.2, 1.4 + row * len(bars) + 0.55 * (len(panels) - 1))
    fig, axes = style.figure(width=6.8 if len(panels) == 1 else 8.2, height=high, nrows=len(panels),
                             squeeze=False, gridspec_kw={"height_ratios": [len(b) + 0.4 for b in panels.values()]})
    for ax, (title, group) in zip(axes[:, 0], panels.items()):
        draw_panel(ax, group, colored, spec.get("marks", []), 1.45 if len(panels) == 1 else 1.9)
        if title:
            ax.set_title(title, fontsize=9)
    first, last = axes[0, 0], axes[-1, 0]
    against = ", ".join(f"{describe.name_of(k)} {v}" for k, v in base_keys.items())
    last.set_xlabel(textwrap.fill(f"{what}: improvement over {against}" if against else what, 60))
    handles, labels = style.legend_scopes(first, [b[2] for b in bars])
    if labels:
        first.legend(handles, labels, loc="lower right", bbox_to_anchor=(1, 1), borderaxespad=0.2, ncols=len(labels))
    return fig, describe.title(points, spec, f"{what} against {against}" if against else what), describe.caption(
        points, "ratio of launches, " + describe.launches(points), describe.levels([b[6] for b in bars]),
        "dashed: no change")
