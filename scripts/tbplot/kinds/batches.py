"""Share of requests by the size of the batch they ran in: values `batch.<rows>`, one row of bars a point; `series`."""
from .. import describe, style
from ..results import ResultError


def draw(points, spec):
    rows = []
    for point in points:
        ranks = point.values_by_rank("batch.")
        if ranks:
            counts = {int(size): n for size, n in ranks[min(ranks)].items()}
            rows.append((describe.series_of(point, spec.get("series")), counts))
    if not rows:
        raise ResultError("plot 'batches': no result has values 'batch.<rows>'")
    most = max(max(counts) for _, counts in rows)
    fig, axes = style.figure(height=1.1 + 0.7 * len(rows), nrows=len(rows), sharex=True, squeeze=False)
    for ax, (label, counts) in zip(axes[:, 0], rows):
        total = sum(counts.values())
        ax.bar(list(counts), [100 * n / total for n in counts.values()], 0.85, color=style.color(0))
        mean = total / sum(n / size for size, n in counts.items())
        ax.set_title(f"{label}; mean batch {mean:.2f}", fontsize=7.5, fontweight="normal", loc="right", pad=2)
        ax.set_xlim(0, most + 1)
    axes[-1, 0].set_xlabel("rows of the batch")
    axes[len(rows) // 2, 0].set_ylabel("% of requests")
    return fig, describe.title(points, spec, "batches"), describe.caption(
        points, "nothing waits for company: a batch takes what arrived while the last one ran",
        "first launch that counts")
