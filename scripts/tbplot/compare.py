"""Points held against each other, as `plots:` asks for: what the kinds efficiency, factors and ratio draw and what
tables print."""
import math
from collections import namedtuple

from . import describe
from .results import ratio_interval

# series: what stays equal; point: held against its base; ratio with its interval [lo, hi] of this level (0: none)
Comparison = namedtuple("Comparison", "series point base ratio lo hi level")
# whole: the chain's last point against its first; parts: each against the one before, or None
Factors = namedtuple("Factors", "series whole parts")


def per_rank(series, base, point, metric):
    scale = base.get("launch.ranks") / point.get("launch.ranks")
    ratio, lo, hi, level = ratio_interval(base, point, metric, describe.LEVEL)
    return Comparison(series, point, base, ratio * scale, lo * scale, hi * scale, level)


def factors(points, spec):
    """Of each series the efficiency of its chain, split into factors. Also the metric and the factors' names."""
    metric = describe.metric_of(points, spec, lambda row: row["dir"] == "higher" and row["kind"] == "ratio")
    chain, found = spec["chain"], []
    for series, group in describe.grouped(points, spec.get("series")).items():
        steps = [next((p for p in group if len(p.launch_numbers(metric)) and
                       all(p.get(k) == v for k, v in link.items() if k != "name")), None) for link in chain]
        if steps[0] is None or steps[-1] is None:
            continue
        whole = per_rank(series, steps[0], steps[-1], metric)
        parts = [per_rank(series, a, b, metric) for a, b in zip(steps, steps[1:])] if None not in steps else None
        found.append(Factors(series, whole, parts))
    return metric, [link.get("name") for link in chain[1:]], found


def efficiencies(points, spec):
    """Of each series the speed per rank over the base's, the base (smallest x, ratio 1) first; series of one x are left
    out. Also the metric and the key of x."""
    metric = describe.metric_of(points, spec, lambda row: row["dir"] == "higher" and row["kind"] == "ratio")
    key, found = spec.get("x", "launch.ranks"), []
    for series, group in describe.grouped(points, spec.get("series")).items():
        group = sorted((p for p in group if len(p.launch_numbers(metric))), key=lambda p: p.get(key))
        if len({p.get(key) for p in group}) < 2:
            continue
        for point in group:
            scale = group[0].get(key) / point.get(key)
            ratio, lo, hi, level = ratio_interval(group[0], point, metric, describe.LEVEL)
            found.append(Comparison(series, point, group[0], ratio * scale, lo * scale, hi * scale, level))
    return metric, key, found


def ratios(points, spec):
    """Of each series every point over the one that matches `base`; above 1 is an improvement. Also the metric."""
    metric = describe.metric_of(points, spec, lambda row: row["kind"] == "ratio")
    base_keys, found = spec.get("base") or {}, []
    groups = describe.grouped(points, spec["series"]) if spec.get("series") else {"": points}
    for series, group in groups.items():
        base = next((p for p in group if all(p.get(k) == v for k, v in base_keys.items())), None)
        if not base_keys or base is None or not len(base.launch_numbers(metric)):
            continue
        for point in group:
            if point is not base and len(point.launch_numbers(metric)):
                better_is_less = point.metrics[metric]["dir"] == "lower"
                found.append(Comparison(series, point, base, *ratio_interval(base, point, metric, describe.LEVEL,
                                                                             inverse=better_is_less)))
    return metric, found


def geomeans(points, spec):
    """{series: {metric: (mean, lo, hi, level) or None}} over the points that `of` names; None where one is missing, not
    ok, or several. The interval is of the means of the points' ends: wider than that of the mean, if their errors are
    independent."""
    found = {}
    groups = describe.grouped(points, [spec["series"]]) if spec.get("series") else {"": points}
    for series, group in groups.items():
        found[series] = {}
        for metric in spec["metric"]:
            members = [[p for p in group if all(p.get(k) == v for k, v in wanted.items())] for wanted in spec["of"]]
            rows = [m[0].summary.get(metric) if len(m) == 1 and m[0].status == "ok" else None for m in members]
            if None in rows:
                found[series][metric] = None
                continue
            ends = [math.exp(sum(math.log(row[end]) for row in rows) / len(rows)) for end in ("value", "lo", "hi")]
            found[series][metric] = (*ends, min(row["level"] for row in rows))
    return found


def base_words(keys):
    """{"params.schedule": "gpipe", "params.recompute": False} -> "gpipe, recompute off"."""
    return ", ".join(describe.words_of(k, v) for k, v in keys.items())


def named(comparison, spec):
    """What a ratio is of: its series, then the keys of `label` (or of the base)."""
    keys = spec.get("label") or list(spec["base"])
    return ", ".join(filter(None, [comparison.series, describe.series_of(comparison.point, keys)]))
