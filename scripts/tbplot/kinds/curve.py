"""Metrics against the training step: `metric` (one or a list), `series`, `log`, `reference` (name: value)."""
import numpy as np

from .. import describe, style
from ..results import ResultError


LINES = ["-", (0, (5, 2)), (0, (2, 1.5)), (0, (5, 1.5, 1, 1.5))]  # equal curves show through each other


def smooth(values, window):
    """Running median, shortened at the ends."""
    half = window // 2
    return np.array([np.median(values[max(0, i - half):i + half + 1]) for i in range(len(values))])


def draw_one(ax, runs, color, label, line):
    n = min(len(values) for _, values in runs)
    steps, stack = runs[0][0][:n], np.array([values[:n] for _, values in runs])
    middle = np.median(stack, axis=0)
    noisy = n > 400
    if len(runs) > 1:
        ax.fill_between(steps, stack.min(axis=0), stack.max(axis=0), color=color, alpha=0.18, linewidth=0)
    elif noisy:
        ax.plot(steps, middle, color=color, alpha=0.25, linewidth=0.6)
    shown = smooth(middle, max(5, n // 60)) if noisy else middle
    ax.plot(steps, shown, color=color, label=label, linestyle=line,
            marker="o" if n < 25 else None, markersize=3.5)
    return noisy


def draw(points, spec):
    metrics = spec.get("metric") or describe.metric_of(points, spec, lambda row: row["kind"] == "curve")
    metrics = metrics if isinstance(metrics, list) else [metrics]
    fig, ax = style.figure()
    noisy = drawn = False
    for i, (label, group) in enumerate(describe.grouped(points, spec.get("series")).items()):
        for k, metric in enumerate(metrics):
            runs = [run for point in group for run in point.series(metric) if len(run[1])]
            if runs:
                name = f"{label}, {metric}" if len(metrics) > 1 else label
                noisy |= draw_one(ax, runs, style.color(i), name, LINES[(k or i) % len(LINES)])
                drawn = True
    if not drawn:
        raise ResultError(f"plot 'curve': no result has samples of {', '.join(metrics)}")
    for name, value in (spec.get("reference") or {}).items():
        ax.axhline(value, color=style.INK, linewidth=0.9, linestyle=":")
        ax.annotate(f"{name} {value:g}", (1, value), xycoords=("axes fraction", "data"), ha="right", va="bottom",
                    fontsize=7.5)
    if spec.get("log"):
        style.plain_log(ax.yaxis)
    ax.set_xlabel("step")
    ax.set_ylabel(describe.axis_label(points, metrics[0]))
    ax.legend()
    many = max(len(p.launches) for p in points) > 1
    return fig, describe.title(points, spec, " and ".join(metrics)), describe.caption(
        points, describe.launches(points) + ("; band: all launches" if many else ""),
        "strong lines: running median, faint lines: every step" if noisy and not many else
        "running median over steps" if noisy else "")
