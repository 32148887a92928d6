"""Words and groupings that all kinds share: what varies, axis labels, units a reader likes, the caption."""
from .results import ResultError

LEVEL = 0.99  # wanted; what the number of launches allows is stated


def name_of(key):
    """"launch.ranks" -> "ranks"."""
    return key.rsplit(".", 1)[-1]


def words_of(key, value):
    """"ranks 2", "recompute off"; a text speaks for itself."""
    if isinstance(value, bool):
        value = "on" if value else "off"
    elif isinstance(value, str):
        return value
    return f"{name_of(key)} {value}"


def series_of(point, key):
    """The series a point belongs to: a configuration key, a list of keys, or what its label says."""
    if not key:
        return point.label
    keys = key if isinstance(key, list) else [key]
    return ", ".join(words_of(k, point.get(k)) for k in keys if point.get(k) != "")


def grouped(points, key):
    """{series: points}, in order of first appearance."""
    groups = {}
    for point in points:
        groups.setdefault(series_of(point, key), []).append(point)
    return groups


def shown(points, spec):
    """The points that a plot is of: `only` (`where` of a tradeoff) maps keys to a value or a list of them."""
    wanted = {**(spec.get("only") or {}), **(spec.get("where") or {})}
    only = {key: value if isinstance(value, list) else [value] for key, value in wanted.items()}
    return [p for p in points if all(p.get(key) in values for key, values in only.items())]


def metric_of(points, spec, default):
    """The metric that a plot asks for, or the first that `default` accepts."""
    if spec.get("metric"):
        return spec["metric"]
    for point in points:
        for name, row in point.metrics.items():
            if default(row):
                return name
    raise ResultError(f"plot '{spec['kind']}': name a metric; no result has one that fits")


def axis_label(points, metric, unit=None):
    unit = unit if unit is not None else next((p.metrics[metric]["unit"] for p in points if metric in p.metrics), "")
    words = metric.removesuffix(f"_{unit}").replace("_per_s", "").replace("_", " ")
    return unit if unit.lower().startswith(f"{words}/") else f"{words} ({unit})" if unit else words


def plain(points, metric):
    """"allreduce_us" -> "allreduce": the unit says nothing of a ratio."""
    return axis_label(points, metric).rsplit(" (", 1)[0]


def three_digits(value):
    """"1.00", "13.7", "254": as many digits in every row."""
    return f"{value:#.3g}".rstrip(".") if abs(value) < 1000 else f"{value:,.0f}"


def short(value):
    """A number for a bar: 4 digits, no exponent where a reader wants none."""
    return f"{value:,.0f}" if 1000 <= abs(value) < 1e7 else f"{value:.4g}"


def interval(row):
    """Distances below and above the value for an error bar; none where the file has no interval."""
    if row["level"] <= 0 or row["lo"] != row["lo"]:
        return 0.0, 0.0
    return max(0.0, row["value"] - row["lo"]), max(0.0, row["hi"] - row["value"])


def levels(found):
    """"99.2 % intervals" of what is really there."""
    has = sorted({round(100 * level, 1) for level in found if level > 0})
    if not has:
        return "no interval (too few launches)"
    if has[-1] == 100.0 and len(has) == 1:
        return "exact: equal in every launch"
    return f"bars: {has[0]:g} %" + (f" to {has[-1]:g} %" if len(has) > 1 else "") + " order-statistic intervals"


def title(points, spec, words):
    name, said = points[0].experiment, spec.get("title") or words
    return said if said.startswith(name) else f"{name}: {said}"


def machine(points):
    """"AMD EPYC, 2 cores; commit 0123abcd"."""
    hosts = sorted({f"{p.fact('host/cpu')}, {p.fact('host/cores_online')} cores" for p in points})
    return f"{'; '.join(hosts)}; commit {', '.join(sorted({p.sha for p in points}))}"


def launches(points):
    n = sorted({len(p.launches) for p in points})
    many = f"{n[0]}" if len(n) == 1 else f"{n[0]} to {n[-1]}"
    return f"median of {many} launches" if n != [1] else "one launch"


def sentence(text):
    return text[0].upper() + text[1:]


def caption(points, *says):
    """What the marks are, then the machine and the commit."""
    profile = points[0].attrs.get("profile")
    source = machine(points) + (f"; profile {profile}" if profile else "")
    return ". ".join([sentence(s) for s in says if s] + [source]) + "."
