"""Where the speed of more ranks goes: `metric` (rate), `series` (keys that stay equal), `chain`: points in order,
each a map of keys with a `name`. Each is held against the one before it, per rank; the product of these factors is
the efficiency (`whole`: another name for it): the last point's speed per rank over the first's. Where a series has
only these two, or the chain, there are no factors. `peer`: another's `name` and `chain`, whose efficiency a diamond
shows; `claim`: a `name` and the value `at` which a line stands."""
from .. import compare, describe, style
from ..results import ResultError


def draw_peer(ax, points, spec, rows):
    """A diamond with its interval on the efficiency's bar of each series that the peer has too."""
    name = spec["peer"]["name"]
    for f in compare.factors(points, {**spec, "chain": spec["peer"]["chain"]})[2]:
        if f.series in rows:
            c = f.whole
            ends = [[max(0, c.ratio - c.lo)], [max(0, c.hi - c.ratio)]] if c.level > 0 else None
            ax.errorbar(c.ratio, rows[f.series], xerr=ends, marker="D", markersize=5.5, color=style.INK,
                        markerfacecolor="white", linewidth=0.8, linestyle="none", label=name)
            name = None


def draw(points, spec):
    metric, names, found = compare.factors(points, spec)
    if not found:
        raise ResultError("plot 'factors': no series has the first and the last point of the chain")
    fig, ax = style.figure(height=max(2.6, 1.5 + 0.62 * len(found)))
    bars = [spec.get("whole", "efficiency"), *(names if len(names) > 1 else [])]
    high = 0.8 / len(bars)
    far = 1.1
    for i, f in enumerate(found):
        for k, c in enumerate([f.whole, *(f.parts or [])][:len(bars)]):
            y = i + (k - (len(bars) - 1) / 2) * high
            ax.barh(y, c.ratio, high * 0.92, color=style.color(k), edgecolor="white", linewidth=0.6,
                    hatch=style.HATCH[c.point.summary[metric]["scope"]])
            end = c.ratio
            if c.level > 0:
                ax.errorbar(c.ratio, y, xerr=[[max(0, c.ratio - c.lo)], [max(0, c.hi - c.ratio)]], color=style.INK,
                            linewidth=0.8)
                end = max(end, c.hi)
            style.note(ax, f"{c.ratio:.3f}", (end, y), (4, 0))
            far = max(far, end)
    if spec.get("peer"):
        draw_peer(ax, points, spec, {f.series: i - (len(bars) - 1) / 2 * high for i, f in enumerate(found)})
    for k, name in enumerate(bars):
        ax.barh([0], [0], color=style.color(k), label=name)
    ax.axvline(1, color=style.INK, linewidth=1, linestyle="--")
    style.claim(ax, spec)
    ax.set_yticks(range(len(found)), [f.series for f in found])
    ax.invert_yaxis()
    ax.grid(axis="y", visible=False)
    ax.set_xlim(0, far * 1.14)
    ax.set_xlabel(f"ratio of {metric.replace('_', ' ')} per rank")
    many = len(ax.get_legend_handles_labels()[1])
    ax.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=min(3, many), borderaxespad=0.2)
    return fig, describe.title(points, spec, f"{bars[0]} = " + " x ".join(names)), describe.caption(
        points, describe.launches(points), describe.levels([f.whole.level for f in found]), "dashed: linear")
