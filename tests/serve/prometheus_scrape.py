"""What Prometheus' parser makes of a live server's /metrics: it reads all lines, no family twice, histograms hold.

prometheus_scrape.py ADDRESS:PORT; ends with 0 when all is well, 77 where the parser is not installed."""
import sys
import urllib.request

try:
    from prometheus_client.parser import text_string_to_metric_families
except ImportError as missing:
    print(f"SKIPPED: {missing}")
    sys.exit(77)


def main():
    with urllib.request.urlopen(f"http://{sys.argv[1]}/metrics") as reply:
        assert reply.headers["Content-Type"].startswith("text/plain; version=0.0.4"), reply.headers["Content-Type"]
        text = reply.read().decode()
    families = list(text_string_to_metric_families(text))
    names = [family.name for family in families]
    assert len(names) == len(set(names)), f"a family twice: {names}"
    read = sum(len(family.samples) for family in families)
    written = sum(1 for line in text.splitlines() if line and not line.startswith("#"))
    assert read == written, f"{read} of {written} samples were read"
    for family in families:
        assert family.type in ("counter", "gauge", "histogram", "summary"), f"{family.name} is {family.type}"
        assert family.documentation, f"{family.name} has no help"
    check_histogram(next(f for f in families if f.name == "tensorbrain_stage_seconds"))
    print("ok")


def check_histogram(family):
    """Buckets ascend, end with +Inf, and that is the count."""
    for stage in sorted({sample.labels["stage"] for sample in family.samples}):
        mine = [sample for sample in family.samples if sample.labels["stage"] == stage]
        buckets = [(float(s.labels["le"]), s.value) for s in mine if s.name.endswith("_bucket")]
        count = next(s.value for s in mine if s.name.endswith("_count"))
        assert buckets == sorted(buckets) and buckets[-1] == (float("inf"), count), (stage, buckets)
        assert [value for _, value in buckets] == sorted(value for _, value in buckets), (stage, buckets)
        assert count > 0, "nothing was answered before the scrape"


if __name__ == "__main__":
    main()
