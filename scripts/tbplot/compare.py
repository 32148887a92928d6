"""Points held against each other, as `plots:` asks for: what the kinds efficiency and ratio draw and what tables print."""
from collections import namedtuple

from . import describe
from .results import ratio_interval

# series: what stays equal; point: held against its base; ratio with its interval [lo, hi] of this level (0: none)
Comparison = namedtuple("Comparison", "series point base ratio lo hi level")


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


def named(comparison, spec):
    """What a ratio is of: its series, then the keys of `label` (or of the base)."""
    keys = spec.get("label") or list(spec["base"])
    return ", ".join(filter(None, [comparison.series, describe.series_of(comparison.point, keys)]))
