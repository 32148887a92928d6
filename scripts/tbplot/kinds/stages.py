"""Where a request's time in the server goes, stacked: values `stage_us.<stage>`; `series` for the bars."""
import numpy as np

from .. import describe, style
from ..results import ResultError

STAGES = ["receive", "parse", "queue", "compute", "serialize"]


def draw(points, spec):
    bars = []
    for point in points:
        ranks = point.values_by_rank("stage_us.")
        if ranks:
            bars.append((describe.series_of(point, spec.get("series")), ranks[min(ranks)]))
    if not bars:
        raise ResultError("plot 'stages': no result has values 'stage_us.<stage>'")
    fig, ax = style.figure(height=max(3.2, 2.2 + 0.4 * len(bars)))
    left = np.zeros(len(bars))
    for i, stage in enumerate(STAGES):
        part = np.array([stages.get(stage, 0) for _, stages in bars])
        ax.barh(range(len(bars)), part, 0.62, left=left, label=stage, color=style.color(i), edgecolor="white",
                linewidth=0.5)
        left += part
    for i, total in enumerate(left):
        style.note(ax, describe.short(total), (total, i))
    ax.set_yticks(range(len(bars)), [label for label, _ in bars])
    ax.invert_yaxis()
    ax.grid(axis="y", visible=False)
    ax.margins(x=0.1)
    ax.set_xlabel("time in the server (us)")
    ax.legend(ncol=len(STAGES), loc="upper center", bbox_to_anchor=(0.45, -0.5 / (fig.get_figheight() - 1.6)))
    return fig, describe.title(points, spec, "stages of a request"), describe.caption(
        points, "means over all answered requests, warm-up included, first byte received to reply handed over",
        "a JSON body is parsed while it is received",
        "first launch that counts")
