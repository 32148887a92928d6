"""Who did what when: events with a duration, one row a rank: `names` (event names), `launch`, `points` (how many)."""
from .. import describe, style
from ..results import ResultError


def one_clock(point):
    """Processes of one host share the monotonic clock."""
    return len({row["value"] for row in point.facts if row["key"] == "rank/host"}) < 2


def spans(point, names, launch):
    """(event, start of its clock) of all events that take time."""
    events = [e for e in point.events
              if e["launch"] == launch and e["t1_ns"] > e["t0_ns"] and (not names or e["name"] in names)]
    first = {}
    for e in events:
        clock = 0 if one_clock(point) else e["rank"]
        first[clock] = min(first.get(clock, e["t0_ns"]), e["t0_ns"])
    return [(e, first[0 if one_clock(point) else e["rank"]]) for e in events]


def draw(points, spec):
    names, launch = spec.get("names"), spec.get("launch", 0)
    shown = [(p, spans(p, names, launch)) for p in points]
    shown = [(p, s) for p, s in shown if s][:spec.get("points", 4)]
    if not shown:
        raise ResultError(f"plot 'gantt': no result has events {names or ''} with a duration")
    kinds = names or list(dict.fromkeys(e["name"] for _, s in shown for e, _ in s))
    rows = [sorted({e["rank"] for e, _ in s}) for _, s in shown]
    fig, axes = style.figure(7.6, 2.1 + sum(0.55 + 0.32 * len(r) for r in rows), nrows=len(shown), squeeze=False,
                             sharex=True, gridspec_kw={"height_ratios": [0.6 + len(r) for r in rows]})
    end = max((e["t1_ns"] - start) / 1e6 for _, s in shown for e, start in s)
    for ax, (point, events), ranks in zip(axes[:, 0], shown, rows):
        for e, start in events:
            kind, at, length = kinds.index(e["name"]), (e["t0_ns"] - start) / 1e6, (e["t1_ns"] - e["t0_ns"]) / 1e6
            ax.barh(ranks.index(e["rank"]), length, 0.78, left=at, color=style.color(kind), edgecolor="white",
                    linewidth=0.5)
            if length > 0.018 * end:
                style.note(ax, str(e["index"]), (at + length / 2, ranks.index(e["rank"])), (0, 0), ha="center",
                           path_effects=[], fontsize=6.5, color="white" if kind in (0, 2, 5, 6) else style.INK)
        ax.set_yticks(range(len(ranks)), [f"rank {r}" for r in ranks])
        ax.set_ylim(len(ranks) - 0.5, -0.5)
        ax.grid(axis="y", visible=False)
        ax.set_xlim(0, end)
        if len(shown) > 1:
            ax.annotate(point.label, (1, 1.0), xycoords="axes fraction", ha="right", va="bottom", fontsize=8)
    axes[-1, 0].set_xlabel("time (ms)")
    for kind, name in enumerate(kinds):
        axes[0, 0].barh([0], [0], color=style.color(kind), label=name)
    axes[0, 0].legend(ncol=min(4, len(kinds)), loc="lower left", bbox_to_anchor=(0, 1), borderaxespad=1.8)
    return fig, describe.title(points, spec, "timeline"), describe.caption(
        [p for p, _ in shown], f"launch {launch}; the numbers are micro-batches",
        "" if all(one_clock(p) for p, _ in shown) else "each rank's time counts from its own first event")
