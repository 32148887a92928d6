"""Speed kept when more ranks work: `metric` (rate), `x` (key, ranks), `series`, `ideal: linear`, `bound` (values
named bound.<name>, as efficiency). The base is the smallest x of each series."""
from .. import compare, describe, style
from ..results import ResultError


def draw(points, spec):
    metric, x_key, found = compare.efficiencies(points, spec)
    if not found:
        raise ResultError(f"plot 'efficiency': no series of '{metric}' has two values of {x_key}")
    bound, hollow, lines = spec.get("bound"), False, {}
    fig, ax = style.figure()
    for c in found:
        line = lines.setdefault(c.series, [])
        i, at = list(lines).index(c.series), c.point.get(x_key)
        measured = c.point.summary[metric]["scope"] == "measured"
        hollow |= not measured
        if c.point is not c.base and c.level > 0:
            ends = [[max(0, c.ratio - c.lo)], [max(0, c.hi - c.ratio)]]
            ax.errorbar(at, c.ratio, ends, color=style.color(i), linewidth=1)
        ax.plot(at, c.ratio, style.marker(i), color=style.color(i), markersize=6,
                markerfacecolor=style.color(i) if measured else "white", label=None if line else c.series)
        if bound and c.point.value(f"bound.{bound}") is not None:
            ax.plot(at, c.point.value(f"bound.{bound}"), "_", color=style.color(i), markersize=16, markeredgewidth=1.6)
        line.append((at, c.ratio))
    for i, line in enumerate(lines.values()):
        ax.plot(*zip(*line), color=style.color(i), linewidth=1.2)
    if spec.get("ideal", "linear") == "linear":
        ax.axhline(1, color=style.INK, linestyle="--", linewidth=1, label="ideal (linear)")
    if bound:
        ax.plot([], [], "_", color=style.INK, markersize=12, markeredgewidth=1.6,
                label=f"bound ({bound.replace('_', '-')} model)")
    if hollow:
        ax.plot([], [], "o", color=style.INK, markerfacecolor="white", label="not on free cores")
    xs = sorted({c.point.get(x_key) for c in found})
    ax.set_xscale("log", base=2)
    ax.set_xticks(xs, [f"{x:g}" for x in xs])
    ax.minorticks_off()
    ax.margins(x=0.12)
    ax.set_ylim(bottom=0, top=max(1.1, ax.get_ylim()[1]))
    ax.set_xlabel(describe.name_of(x_key))
    ax.set_ylabel("efficiency (speed per rank / speed of the base)")
    ax.legend(loc="lower left")
    return fig, describe.title(points, spec, "efficiency"), describe.caption(
        points, f"{describe.name_of(x_key)} = {xs[0]:g} is the base", describe.launches(points),
        describe.levels([c.level for c in found if c.point is not c.base]))
