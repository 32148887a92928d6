"""Stacked bars of counts: `metric` (a list; the parts of a bar), `of` (a metric: what all parts should add up to, shown
as a mark), `label` (keys that name a bar; bars with one name are added up)."""
from matplotlib.ticker import MaxNLocator

from .. import describe, style
from ..results import ResultError


def added(points, spec):
    """{name: ([parts], whole or None)}: launches added up, points of one name too."""
    bars = {}
    for name, group in describe.grouped(points, spec.get("label")).items():
        total = {m: sum(p.launch_numbers(m).sum() for p in group)
                 for m in spec["metric"] + ([spec["of"]] if spec.get("of") else [])}
        bars[name] = ([total[m] for m in spec["metric"]], total.get(spec.get("of")))
    return dict(sorted(bars.items()))


def draw(points, spec):
    bars = added(points, spec)
    if not any(sum(parts) for parts, _ in bars.values()):
        raise ResultError(f"plot 'counts': nothing was counted of {', '.join(spec['metric'])}")
    fig, ax = style.figure(height=1.4 + 0.24 * len(bars))
    for i, (parts, whole) in enumerate(bars.values()):
        left = 0
        for k, n in enumerate(parts):
            ax.barh(i, n, 0.72, left=left, color=style.color(k), edgecolor="white", linewidth=0.6,
                    label=spec["metric"][k].replace("_", " ") if i == 0 else None)
            left += n
        if whole is not None:
            ax.plot([whole, whole], [i - 0.42, i + 0.42], color=style.INK, linewidth=2,
                    label=spec["of"].replace("_", " ") if i == 0 else None)
            style.note(ax, f"{whole:g} of {left:g}", (max(whole, left), i), (6, 0))
    ax.set_yticks(range(len(bars)), list(bars))
    ax.set_ylim(len(bars) - 0.4, -0.6)
    ax.grid(axis="y", visible=False)
    ax.set_xlim(0, 1.14 * max(max(sum(parts), whole or 0) for parts, whole in bars.values()))
    ax.set_xlabel("count", loc="right")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.legend(loc="upper center", bbox_to_anchor=(0.4, -0.62 / fig.get_figheight()), ncols=3)
    return fig, describe.title(points, spec, ", ".join(m.replace("_", " ") for m in spec["metric"])), describe.caption(
        points, describe.launches(points), f"line: {spec['of'].replace('_', ' ')}" if spec.get("of") else "")
