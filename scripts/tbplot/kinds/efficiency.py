"""Speed kept when more ranks work: `metric` (rate), `x` (key, ranks), `series`, `ideal: linear`, `bound` (values
named bound.<name>, as efficiency). The base is the smallest x of each series."""
from .. import describe, style
from ..results import ResultError, ratio_interval


def draw(points, spec):
    metric = describe.metric_of(points, spec, lambda row: row["dir"] == "higher" and row["kind"] == "ratio")
    x_key, bound = spec.get("x", "launch.ranks"), spec.get("bound")
    fig, ax = style.figure()
    xs, found, hollow = set(), [], False
    for i, (label, group) in enumerate(describe.grouped(points, spec.get("series")).items()):
        group = sorted((p for p in group if len(p.launch_numbers(metric))), key=lambda p: p.get(x_key))
        if len(group) < 2:
            continue
        base, line = group[0], []
        for point in group:
            scale = base.get(x_key) / point.get(x_key)
            ratio, lo, hi, level = ratio_interval(base, point, metric, describe.LEVEL)
            at, y = point.get(x_key), ratio * scale
            line.append((at, y))
            xs.add(at)
            measured = point.summary[metric]["scope"] == "measured"
            hollow |= not measured
            if point is not base and level > 0:
                found.append(level)
                ends = [[max(0, y - lo * scale)], [max(0, hi * scale - y)]]
                ax.errorbar(at, y, ends, color=style.color(i), linewidth=1)
            ax.plot(at, y, style.marker(i), color=style.color(i), markersize=6,
                    markerfacecolor=style.color(i) if measured else "white", label=label if point is base else None)
            if bound and point.value(f"bound.{bound}") is not None:
                ax.plot(at, point.value(f"bound.{bound}"), "_", color=style.color(i), markersize=16,
                        markeredgewidth=1.6)
        ax.plot(*zip(*line), color=style.color(i), linewidth=1.2)
    if not xs:
        raise ResultError(f"plot 'efficiency': no series of '{metric}' has two values of {x_key}")
    if spec.get("ideal", "linear") == "linear":
        ax.axhline(1, color=style.INK, linestyle="--", linewidth=1, label="ideal (linear)")
    if bound:
        ax.plot([], [], "_", color=style.INK, markersize=12, markeredgewidth=1.6,
                label=f"bound ({bound.replace('_', '-')} model)")
    if hollow:
        ax.plot([], [], "o", color=style.INK, markerfacecolor="white", label="not on free cores")
    ax.set_xscale("log", base=2)
    ax.set_xticks(sorted(xs), [f"{x:g}" for x in sorted(xs)])
    ax.minorticks_off()
    ax.margins(x=0.12)
    ax.set_ylim(bottom=0, top=max(1.1, ax.get_ylim()[1]))
    ax.set_xlabel(describe.name_of(x_key))
    ax.set_ylabel("efficiency (speed per rank / speed of the base)")
    ax.legend(loc="lower left")
    return fig, describe.title(points, spec, "efficiency"), describe.caption(
        points, f"{describe.name_of(x_key)} = {min(xs):g} is the base", describe.launches(points),
        describe.levels(found))
