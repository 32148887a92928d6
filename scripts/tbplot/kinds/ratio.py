"""How much faster or smaller than a base: `metric`, `base` (map of keys to values), `series` (keys that stay equal),
`label` (keys that name a bar). A ratio above 1 is an improvement: inverted where the metric's direction is lower.
Without a base the metric is a ratio already. Several (`metric`: a list, `names`: what the key calls them) are dots in
one row a point. `panels`: keys that split the bars, each part on a scale of its own. `marks`: values of a point that a
tick in its bar shows, what its ratio was to reach; a bar short of the first is pale. `claim`: a `name` and the value
`at` which a line stands."""
import math

from .. import compare, describe, style
from ..results import ResultError

SHORT = "#9ecae1"


def against_base(points, spec):
    metric, found = compare.ratios(points, spec)
    bars = [(compare.named(c, spec), c.point, c.point.summary[metric]["scope"], c.ratio, c.lo, c.hi, c.level)
            for c in found]
    return describe.plain(points, metric), bars


def already_ratios(points, spec):
    metric = spec["metric"]
    found = [(point, point.summary[metric]) for point in points if metric in point.summary]
    return describe.plain(points, metric), [
        (describe.series_of(p, spec.get("label")), p, row["scope"], row["value"], row["lo"], row["hi"], row["level"])
        for p, row in found]


def whiskers(ratio, lo, hi, level):
    return [[max(0, ratio - lo)], [max(0, hi - ratio)]] if level > 0 and not math.isnan(lo) else None


def once(ax, name):
    """A name for the key, the first time."""
    return name if name not in ax.get_legend_handles_labels()[1] else None


def draw_bar(ax, i, bar, marks):
    """Returns how far to the right it reaches, its marks included."""
    _, point, scope, ratio, lo, hi, level = bar
    wanted = [point.value(name, 0) for name in marks]
    short = bool(marks) and 0 < ratio < wanted[0]
    ax.barh(i, ratio, 0.66, color=SHORT if short else style.color(0), hatch=style.HATCH[scope], edgecolor="white",
            linewidth=0.6, label=once(ax, f"short of its {marks[0]}") if short else None)
    ends = whiskers(ratio, lo, hi, level)
    if ends:
        ax.errorbar(ratio, i, xerr=ends, color=style.INK, linewidth=1)
    for k, (name, value) in enumerate(zip(marks, wanted)):
        if value > 0:
            ax.plot([value, value], [i - 0.38, i + 0.38], color=style.color(5 - 4 * k), linewidth=2,
                    solid_capstyle="butt", label=once(ax, name))
    end = max([ratio, hi if ends else 0, *wanted])
    interval = f"  [{describe.three_digits(lo)}, {describe.three_digits(hi)}]" if ends else ""
    style.note(ax, f"{describe.three_digits(ratio)}x{interval}", (end, i), (5, 0))
    return end


def draw_panel(ax, bars, marks, room):
    """room: of the axis, in parts of the longest bar; the rest is for what is written beside it."""
    far = max(draw_bar(ax, i, bar, marks) for i, bar in enumerate(bars))
    ax.axvline(1, color=style.INK, linewidth=1, linestyle="--")
    ax.set_yticks(range(len(bars)), [bar[0] for bar in bars])
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


def draw_bars(points, spec):
    base_keys, marks = spec.get("base") or {}, spec.get("marks", [])
    what, bars = (against_base if base_keys or not spec.get("metric") else already_ratios)(points, spec)
    if not bars:
        base = f" matches the base {base_keys}" if base_keys else ""
        raise ResultError(f"plot 'ratio': no result of '{what}'{base}")
    panels = panels_of(bars, spec.get("panels"))
    row = 0.42 if len(bars) < 20 else 0.26
    high = max(2.2, 1.4 + row * len(bars) + 0.55 * (len(panels) - 1))
    fig, axes = style.figure(width=6.8 if len(panels) == 1 else 8.2, height=high, nrows=len(panels),
                             squeeze=False, gridspec_kw={"height_ratios": [len(b) + 0.4 for b in panels.values()]})
    keys = {}
    for ax, (title, group) in zip(axes[:, 0], panels.items()):
        draw_panel(ax, group, marks, 1.45 if len(panels) == 1 else 1.9)
        style.claim(ax, spec)
        handles, labels = style.legend_scopes(ax, [b[2] for b in group])
        keys.update({label: handle for handle, label in zip(handles, labels) if label not in keys})
        if title:
            ax.set_title(title, fontsize=9)
    against = compare.base_words(base_keys)
    axes[-1, 0].set_xlabel(f"{what}: improvement over {against}" if against else what, loc="right")
    if keys:
        axes[0, 0].legend(keys.values(), keys, loc="lower right", bbox_to_anchor=(1, 1), ncols=len(keys),
                          borderaxespad=0.2 if len(panels) == 1 else 2)
    return fig, f"{what} against {against}" if against else what, [b[6] for b in bars]


def draw_dots(points, spec):
    metrics = spec["metric"]
    names = spec.get("names") or [m.replace("_", " ") for m in metrics]
    rows = [p for p in points if any(m in p.summary for m in metrics)]
    if not rows:
        raise ResultError(f"plot 'ratio': no result of {', '.join(metrics)}")
    fig, ax = style.figure(width=8.2, height=1.5 + 0.21 * len(rows))
    found = []
    for k, (metric, name) in enumerate(zip(metrics, names)):
        for i, point in enumerate(rows):
            row = point.summary.get(metric)
            if row is None:
                continue
            ax.errorbar(row["value"], i, xerr=whiskers(row["value"], row["lo"], row["hi"], row["level"]),
                        marker=style.marker(k), markersize=5, color=style.color(k), linewidth=1, linestyle="none",
                        label=once(ax, name))
            found.append(row["level"])
    for i in range(0, len(rows), 2):
        ax.axhspan(i - 0.5, i + 0.5, color="#f4f4f4", zorder=0)
    ax.axvline(1, color=style.INK, linewidth=1, linestyle="--")
    style.claim(ax, spec)
    ax.set_yticks(range(len(rows)), [describe.series_of(p, spec.get("label")) for p in rows])
    ax.set_ylim(len(rows) - 0.4, -0.6)
    ax.grid(axis="y", visible=False)
    style.plain_log(ax.xaxis)
    ax.set_xlabel("ratio")
    ax.legend(loc="lower right", bbox_to_anchor=(1, 1), borderaxespad=0.2, ncols=3)
    return fig, ", ".join(names), found


def draw(points, spec):
    fig, words, found = (draw_dots if isinstance(spec.get("metric"), list) else draw_bars)(points, spec)
    return fig, describe.title(points, spec, words), describe.caption(
        points, "ratio of launches, " + describe.launches(points), describe.levels(found), "dashed: no change")
