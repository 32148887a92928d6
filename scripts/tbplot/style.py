"""How every figure looks: one palette that colour-blind readers can tell apart (Okabe and Ito), hatching for what was
not measured on free cores, a caption that says what the marks mean, files that are equal when the results are."""
import textwrap

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402
from matplotlib.patheffects import withStroke  # noqa: E402
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter  # noqa: E402

COLORS = ["#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#000000", "#999933"]
MARKERS = ["o", "s", "^", "D", "v", "P", "X", "*"]
HATCH = {"measured": "", "oversubscribed": "////", "emulated": "....", "modelled": "xxxx"}
INK, FAINT = "#222222", "#bbbbbb"

matplotlib.rcParams.update({
    "svg.hashsalt": "tensorbrain", "svg.fonttype": "path", "figure.dpi": 150, "savefig.dpi": 150,
    "font.family": "DejaVu Sans", "font.size": 9, "axes.titlesize": 10.5, "axes.titleweight": "bold",
    "axes.titlelocation": "left", "axes.labelsize": 9, "axes.edgecolor": INK, "axes.linewidth": 0.8,
    "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "axes.axisbelow": True,
    "grid.color": "#e4e4e4", "grid.linewidth": 0.7, "legend.frameon": False, "legend.fontsize": 8.5,
    "xtick.color": INK, "ytick.color": INK, "text.color": INK, "hatch.linewidth": 0.6, "lines.linewidth": 1.6,
    "errorbar.capsize": 2.5,
})


def figure(width=6.8, height=4.0, **subplots):
    fig, axes = plt.subplots(figsize=(width, height), **subplots)
    return fig, axes


def color(i):
    return COLORS[i % len(COLORS)]


def marker(i):
    return MARKERS[i % len(MARKERS)]


def plain_log(axis):
    """A logarithmic axis with plain numbers; 2 and 5 are labelled too where few decades are in view."""
    axis.axes.set_xscale("log") if axis.axis_name == "x" else axis.axes.set_yscale("log")
    lo, hi = sorted(axis.get_view_interval())
    axis.set_major_locator(LogLocator(subs=(1, 2, 5) if hi < 300 * max(lo, 1e-300) else (1,)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.12g}"))
    axis.set_minor_formatter(NullFormatter())


def note(ax, text, at, offset=(4, 0), **how):
    """A small text beside a mark, legible where it crosses a line; offset in points."""
    halo = [withStroke(linewidth=4, foreground="white")]
    ax.annotate(text, at, xytext=offset, textcoords="offset points",
                **{"fontsize": 8, "va": "center", "path_effects": halo, **how})


def claim(ax, spec):
    """A line at the value that somebody claims: `claim`, {name, at}."""
    if spec.get("claim"):
        ax.axvline(spec["claim"]["at"], color=color(5), linewidth=1.4, linestyle=":",
                   label=f"{spec['claim']['name']} {spec['claim']['at']:g}")


def legend_scopes(ax, scopes):
    """Adds a key for each hatching in use; returns what the legend already had and these."""
    handles, labels = ax.get_legend_handles_labels()
    for scope in sorted(set(scopes) - {"measured"}):
        handles.append(plt.Rectangle((0, 0), 1, 1, facecolor="white", edgecolor=INK, hatch=HATCH[scope],
                                     linewidth=0.6))
        labels.append(scope)
    return handles, labels


def finish(fig, title, caption, path):
    """Title above, caption below the axes, then PNG and SVG without dates."""
    high = fig.get_figheight()
    heading = textwrap.wrap(title, int(fig.get_figwidth() * 11))
    lines = textwrap.wrap(caption, int(fig.get_figwidth() * 16.5))
    fig.tight_layout(rect=(0, (0.15 * len(lines) + 0.1) / high, 1, 1 - (0.19 * len(heading) + 0.06) / high))
    fig.text(0.015, 1 - 0.06 / high, "\n".join(heading), fontsize=10.5, fontweight="bold", va="top", linespacing=1.2)
    fig.text(0.015, 0.06 / fig.get_figheight(), "\n".join(lines), fontsize=7.2, color="#555555", va="bottom",
             linespacing=1.3)
    fig.savefig(f"{path}.png", metadata={"Software": None})
    fig.savefig(f"{path}.svg", metadata={"Date": None, "Creator": None})
    plt.close(fig)
