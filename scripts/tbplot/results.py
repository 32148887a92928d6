"""Result files as Python objects. The layout is results/SCHEMA.md. A file whose summary is not that of its own samples
is refused: it was altered."""
import json
import math
import re
from functools import cached_property
from pathlib import Path

import h5py
import numpy as np

SCHEMA_MAJOR = 1


class ResultError(Exception):
    """One sentence for the user."""


class NothingToDraw(ResultError):
    """The results have no value for a figure that their experiment asks for."""


def _text(value):
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def _rows(table):
    """A compound dataset as dictionaries, text decoded."""
    texts = {name for name in table.dtype.names if table.dtype[name].kind == "S"}
    return [{name: _text(row[name]) if name in texts else row[name].item() for name in table.dtype.names}
            for row in table[()]]


class Point:
    """One file: one resolved configuration with all its launches."""

    def __init__(self, path):
        self.path = Path(path)
        try:
            with h5py.File(path, "r") as f:
                self._load(f)
        except (OSError, KeyError) as error:
            raise ResultError(f"{path}: not a result file ({error})") from error

    def _load(self, f):
        if f.attrs.get("schema_major") != SCHEMA_MAJOR:
            raise ResultError(f"{self.path}: schema {f.attrs.get('schema_major')}; these scripts read {SCHEMA_MAJOR}")
        self.attrs = {name: _text(v) if isinstance(v, bytes) else v for name, v in f.attrs.items()}
        self.label, self.status, self.scope = (self.attrs[k] for k in ("label", "status", "scope"))
        self.experiment, self.hash = self.attrs["experiment"], self.attrs["point_hash"]
        shared = {name: _text(d[0]) for name, d in f["config"].items()}
        self.config = json.loads(shared["resolved"]) if shared["resolved"] else {}
        self.question = shared.get("question", "")
        self.plots = json.loads(shared.get("plots") or "[]")
        self.launches, self.ends, self.facts = (_rows(f[n]) for n in ("launches", "ends", "provenance"))
        self.values, self.events, self.checks = (_rows(f[n]) for n in ("values", "events", "checks"))
        self.metrics = {row["name"]: row for row in _rows(f["metrics"])}
        self.summary = {row["metric"]: row for row in _rows(f["summary"])}
        self._samples = {name: (g["value"][()], g["step"][()], g["count"][()]) for name, g in f["samples"].items()}
        self._check_summary()

    def _check_summary(self):
        for metric, row in self.summary.items():
            numbers = self.launch_numbers(metric)
            if len(numbers) and not np.isclose(np.median(numbers), row["value"], rtol=1e-9, atol=0, equal_nan=True):
                raise ResultError(f"{self.path}: its summary says {metric} {row['value']:.6g}, but its samples give "
                                  f"{np.median(numbers):.6g}: the file was altered after the run")

    def get(self, key, default=None):
        """A configuration value by dotted path: "launch.ranks"."""
        node = self.config
        for part in key.split("."):
            if not isinstance(node, dict) or part not in node:
                return default
            node = node[part]
        return node

    def fact(self, key):
        return next((row["value"] for row in self.facts if row["key"] == key), "unknown")

    def counts(self, launch):
        """May this launch give a number (tb_result_summarise's rule)?"""
        held = all(c["pass"] or c["kind"] == "bound" for c in self.checks if c["launch"] == launch)
        return held and self.ends[launch]["status"] not in ("failed", "invalid", "timeout")

    def series(self, metric):
        """Of each launch that counts: (steps, values), ranks reduced as the metric says."""
        if metric not in self._samples:
            return []
        value, step, count = self._samples[metric]
        how = self.metrics.get(metric, {}).get("reduce") or "max"
        out = []
        for launch in range(value.shape[0]):
            ranks = np.flatnonzero(count[launch])
            if not len(ranks) or not self.counts(launch):
                continue
            n = count[launch][ranks].min()
            columns = value[launch, :n][:, ranks]
            reduced = columns[:, 0] if how == "rank0" else getattr(np, how)(columns, axis=1)
            out.append((step[launch, :n, ranks[0]], reduced))
        return out

    def launch_numbers(self, metric):
        """One number a launch: the metric's statistic over iterations, or its value reduced over ranks."""
        declared = self.metrics.get(metric, {})
        statistic = declared.get("statistic") or "median"
        of = {"median": np.median, "last": lambda x: x[-1], "max": np.max, "min": np.min, "total": np.sum,
              "p95": lambda x: np.quantile(x, 0.95), "p99": lambda x: np.quantile(x, 0.99)}[statistic]
        series = self.series(metric)
        if series:
            return np.array([of(values) for _, values in series])
        how = declared.get("reduce") or "max"
        numbers = []
        for launch in range(len(self.launches)):
            ranks = [v["value"] for v in self.values if v["launch"] == launch and v["name"] == metric]
            if ranks and self.counts(launch):
                numbers.append(ranks[0] if how == "rank0" else getattr(np, how)(ranks))
        return np.array(numbers)

    def value(self, name, default=None):
        """A single number: the median over launches of the largest rank's."""
        numbers = {}
        for v in self.values:
            if v["name"] == name and self.counts(v["launch"]):
                numbers.setdefault(v["launch"], []).append(v["value"])
        return float(np.median([max(x) for x in numbers.values()])) if numbers else default

    def values_by_rank(self, prefix):
        """{rank: {name without prefix: value}} of the first launch that counts."""
        for launch in range(len(self.launches)):
            found = {}
            for v in self.values:
                if v["launch"] == launch and v["name"].startswith(prefix) and self.counts(launch):
                    found.setdefault(v["rank"], {})[v["name"][len(prefix):]] = v["value"]
            if found:
                return found
        return {}

    @cached_property
    def sha(self):
        dirty = "-dirty" if self.fact("build/git_dirty") == "1" else ""
        return self.fact("build/git_sha")[:8] + dirty


def load(paths):
    """Every result file under the paths; of several with one hash the one that started last. By experiment, those that
    started last at the end; points in the order of their labels, numbers in them by size."""
    newest = {}
    for path in map(Path, paths):
        if not path.exists():
            raise ResultError(f"{path}: there is no such file or folder")
        for file in sorted(path.rglob("*.h5")) if path.is_dir() else [path]:
            point = Point(file)
            started = max(row["utc_ns"] for row in point.launches)
            if point.hash not in newest or newest[point.hash][0] <= started:
                newest[point.hash] = (started, point)
    if not newest:
        raise ResultError(f"{', '.join(map(str, paths))}: no result file (*.h5) in there")
    runs = {}
    for _, point in sorted(newest.values(), key=lambda entry: entry[0]):
        runs.setdefault(point.experiment, []).append(point)
    for points in runs.values():
        points.sort(key=lambda p: [(part.isdigit(), int(part) if part.isdigit() else 0, part)
                                   for part in re.split(r"(\d+)", p.label)])
    return runs


def median_interval(x, level):
    """(lo, hi, the level it has) between order statistics: harness/stats.c, tb_quantile_interval, for the median."""
    x, n = np.sort(x), len(x)
    if n < 2:
        return math.nan, math.nan, 0.0
    rank, outside, below = 0, 0.0, 0.0
    while rank < n:
        below += math.comb(n, rank) / 2**n
        if below > (1 - level) / 2 * (1 + 1e-12):
            break
        outside, rank = below, rank + 1
    if rank == 0:
        rank, outside = 1, 1 / 2**n
    return x[rank - 1], x[n - rank], 1 - 2 * outside


def interleaved(a, b):
    """Were the launches of two points taken in turns, so that launch i of both is a pair?"""
    if len(a.launches) != len(b.launches) or not all(p.counts(i) for p in (a, b) for i in range(len(p.launches))):
        return False
    rounds = [(x["utc_ns"], y["utc_ns"]) for x, y in zip(a.launches, b.launches)]
    return all(max(this) < min(after) for this, after in zip(rounds, rounds[1:]))


def ratio_interval(base_point, head_point, metric, level, inverse=False):
    """(ratio, lo, hi, level) head / base of a metric: the sign-test interval of log ratios when their launches are
    pairs, else the extreme ratios of two intervals (Bonferroni), as harness/stats.c does."""
    base, head = base_point.launch_numbers(metric), head_point.launch_numbers(metric)
    if inverse:
        base, head = head, base
    if interleaved(base_point, head_point) and len(base) == len(head):
        logs = np.log(head / base)
        lo, hi, has = median_interval(logs, level)
        return math.exp(np.median(logs)), math.exp(lo), math.exp(hi), has
    b, h = (median_interval(x, 1 - (1 - level) / 2) for x in (base, head))
    return np.median(head) / np.median(base), h[0] / b[1], h[1] / b[0], max(0.0, b[2] + h[2] - 1)
