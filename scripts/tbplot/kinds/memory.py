"""Peak memory by purpose, stacked, of the rank that needs most: `prefix` of the values, `series` for the bars,
`predicted` (a value of that rank that a tick shows)."""
import numpy as np

from .. import describe, style
from ..results import ResultError

TAGS = ["param", "grad", "opt", "act", "act_grad", "boundary", "workspace", "comm", "other"]
SHADES = ["#0072B2", "#56B4E9", "#004a73", "#E69F00", "#f3c766", "#CC79A7", "#009E73", "#D55E00", "#999999"]


def draw(points, spec):
    prefix = spec.get("prefix", "peak_bytes.")
    bars, said = [], []
    for point in points:
        ranks = point.values_by_rank(prefix)
        if ranks:
            rank = max(ranks, key=lambda r: sum(ranks[r].values()))
            bars.append((describe.series_of(point, spec.get("series")), ranks[rank]))
            said.append(point.values_by_rank(spec["predicted"])[rank][""] if spec.get("predicted") else None)
    if not bars:
        raise ResultError(f"plot 'memory': no result has values '{prefix}<tag>'")
    largest = max(sum(tags.values()) for _, tags in bars)
    scale, unit = (2**20, "MiB") if largest < 8 * 2**30 else (2**30, "GiB")
    known = TAGS + sorted({t for _, tags in bars for t in tags} - set(TAGS))
    fig, ax = style.figure(height=max(2.8, 1.7 + 0.45 * len(bars)))
    left = np.zeros(len(bars))
    for i, tag in enumerate(known):
        part = np.array([tags.get(tag, 0) / scale for _, tags in bars])
        if part.any():
            ax.barh(range(len(bars)), part, 0.62, left=left, label=tag.replace("_", " "),
                    color=SHADES[i % len(SHADES)], edgecolor="white", linewidth=0.5)
            left += part
    for i, total in enumerate(left):
        style.note(ax, describe.three_digits(total), (total, i))
        if said[i] is not None:
            at = said[i] / scale
            ax.plot([at, at], [i - 0.42, i + 0.42], color=style.INK, linewidth=1.6, label="" if i else "predicted")
    ax.set_yticks(range(len(bars)), [label for label, _ in bars])
    ax.set_ylim(len(bars) - 0.5, -0.5)
    ax.grid(axis="y", visible=False)
    ax.margins(x=0.1)
    ax.set_xlabel(f"memory at the peak ({unit})")
    ax.legend(ncol=5, loc="lower right", bbox_to_anchor=(1, 1), columnspacing=1.2)
    return fig, describe.title(points, spec, "peak memory by purpose"), describe.caption(
        points, "counted by the allocator, not sampled; the rank with the highest peak, first launch")
