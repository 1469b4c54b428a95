"""Parses a role's metrics as Prometheus does, in both text formats, and checks what its conventions ask for.

    metrics.py HOST:PORT
"""

import math
import re
import sys
import urllib.request

from prometheus_client import parser
from prometheus_client.openmetrics import parser as openmetrics_parser

OPEN_METRICS = "application/openmetrics-text; version=1.0.0"
UNITS = ("_seconds", "_bytes")
# Numbers, versions, and words in snake_case.
VALUE = re.compile(r"[a-z0-9_]+|[0-9.e+-]+|\+Inf")
COMMON = ["process_open_fds", "process_max_fds", "process_resident_memory_bytes", "process_start_time_seconds",
          "process_cpu_seconds", "memgate_build"]


def fetch(address, accept):
    request = urllib.request.Request(f"http://{address}/metrics", headers={"Accept": accept})
    with urllib.request.urlopen(request, timeout=10) as response:
        return response.headers["Content-Type"], response.read().decode()


def check_histogram(family):
    series = {}
    for sample in family.samples:
        labels = tuple(sorted((k, v) for k, v in sample.labels.items() if k != "le"))
        series.setdefault(labels, []).append(sample)
    for labels, samples in series.items():
        buckets = [(float(s.labels["le"]), s.value) for s in samples if s.name.endswith("_bucket")]
        count = [s.value for s in samples if s.name.endswith("_count")]
        assert buckets == sorted(buckets), f"{family.name} {labels}: {buckets}"
        assert [value for _, value in buckets] == sorted(value for _, value in buckets), f"{family.name}: {buckets}"
        assert buckets[-1] == (math.inf, count[0]), f"{family.name} {labels}: {buckets[-1]} of {count}"
        assert all(bound < 1e6 for bound, _ in buckets[:-1]), f"{family.name}: {buckets}"


def check(families):
    names = set()
    for family in families:
        assert family.name not in names, f"{family.name} is there twice"
        names.add(family.name)
        assert family.documentation.strip(), f"{family.name} has no help"
        assert family.type != "unknown", f"{family.name} has no type"
        if family.type == "histogram":
            assert family.name.endswith(UNITS), f"{family.name} has no unit"
            check_histogram(family)
        for sample in family.samples:
            assert not math.isnan(sample.value), sample
            if family.type == "counter":
                assert sample.name.endswith("_total") and sample.value >= 0, sample
            for name, value in sample.labels.items():
                assert VALUE.fullmatch(value), f"{sample.name}: {name}={value!r}"
    return names


def main(address):
    kind, text = fetch(address, OPEN_METRICS)
    assert kind.startswith("application/openmetrics-text"), kind
    names = check(openmetrics_parser.text_string_to_metric_families(text))
    missing = [name for name in COMMON if name not in names]
    assert not missing, f"missing: {missing}"
    kind, text = fetch(address, "*/*")
    assert kind.startswith("text/plain"), kind
    for family in parser.text_string_to_metric_families(text):
        assert family.documentation.strip(), f"{family.name} has no help in the older format"
        assert family.type != "unknown", f"{family.name} has no type in the older format"


main(sys.argv[1])
