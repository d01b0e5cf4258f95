"""The alert rules and the dashboard in ``conf`` speak of metrics and labels that there are, and of no others."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from metaserver.cli.probe import textfile_lines
from metaserver.metrics import metric_families
from tests.cli.test_probe import GROUPS, PROBES
from tests.test_metrics import SNAPSHOT

ROOT = Path(__file__).resolve().parents[1]
ALERTS = [ROOT / "conf" / "alerts.yml", ROOT / "conf" / "alerts-probe.yml"]
DASHBOARD = ROOT / "conf" / "grafana-dashboard.json"

# What Prometheus adds to every series, and the series it makes itself.
TARGET_LABELS = {"instance", "job"}
OF_PROMETHEUS = {"up", "process_resident_memory_bytes", "process_open_fds", "process_max_fds"}
WORDS = {"and", "by", "changes", "on", "or", "predict_linear", "rate", "sum", "time", "unless"}
LABELS = {
    sample.name: set(sample.labels) for family in metric_families(SNAPSHOT) for sample in family.samples
}
OF_PROBE = {
    sample.name: set(sample.labels)
    for family in text_string_to_metric_families("\n".join(textfile_lines(PROBES, GROUPS, 1.0)) + "\n")
    for sample in family.samples
}
KNOWN = LABELS | OF_PROBE


def parse_yaml(text: str) -> dict[str, Any]:
    """Mappings, lists of mappings, and scalars on one line: all that the rules need of YAML, and no more."""
    lines = []
    for line in text.splitlines():
        content = line.lstrip(" ")
        if content and not content.startswith("#"):
            lines.append((len(line) - len(content), content))
    value, rest = _parse_block(lines, 0)
    assert not rest, f"not part of anything: {rest[0]}"
    assert isinstance(value, dict)
    return value


def _parse_block(lines: list[tuple[int, str]], indent: int) -> tuple[Any, list[tuple[int, str]]]:
    if lines and lines[0][1].startswith("- "):
        items = []
        while lines and lines[0][0] == indent:
            assert lines[0][1].startswith("- "), lines[0]
            item, lines = _parse_block([(indent + 2, lines[0][1][2:]), *lines[1:]], indent + 2)
            items.append(item)
        return items, lines
    mapping: dict[str, Any] = {}
    while lines and lines[0][0] == indent:
        key, colon, scalar = lines[0][1].partition(":")
        assert colon, f"no key: {lines[0]}"
        assert key not in mapping, f"{key} comes twice"
        assert re.fullmatch(r"\w+", key), lines[0]
        lines = lines[1:]
        if scalar:
            assert scalar.startswith(" "), f"a blank is missing behind {key}:"
            mapping[key] = _parse_scalar(scalar[1:])
        else:
            assert lines, f"nothing below {key}"
            assert lines[0][0] > indent, f"nothing below {key}"
            mapping[key], lines = _parse_block(lines, lines[0][0])
    return mapping, lines


def _parse_scalar(text: str) -> str:
    if text.startswith('"'):
        value = json.loads(text)
        assert isinstance(value, str)
        return value
    # A plain scalar may hold none of these where YAML would take them for something else.
    assert not re.search(r": | #|^[\[\]{}&*!|>'%@`,?-]", text), f"quote it: {text}"
    return text


RULES = [
    rule
    for path in ALERTS
    for group in parse_yaml(path.read_text(encoding="utf-8"))["groups"]
    for rule in group["rules"]
]
PANELS = json.loads(DASHBOARD.read_text(encoding="utf-8"))["panels"]
TARGETS = [(panel["title"], target) for panel in PANELS for target in panel["targets"]]


def metrics_of(expression: str) -> set[str]:
    """The series it reads; checks that every word is known, and every label one of its series."""
    bare = re.sub(r'"[^"]*"', '""', expression)
    labels = set(re.findall(r"(\w+)(?:=~|!~|!=|=)\"\"", bare))
    for names in re.findall(r"\b(?:by|on) \(([^)]*)\)", bare):
        labels |= set(re.split(r",\s*", names))
    without_labels = re.sub(r"\b(?:by|on) \([^)]*\)", "", re.sub(r"\{[^}]*\}", "", bare))
    without_spans = re.sub(r"\[\d+[smhd]\]", "", without_labels)
    words = set(re.findall(r"(?<![\w.])[A-Za-z_:][\w:]*", without_spans))
    series = words - WORDS
    assert series, "it reads nothing"
    assert series <= KNOWN.keys() | OF_PROMETHEUS, f"no such metric: {series - KNOWN.keys()}"
    known = TARGET_LABELS | {label for name in series for label in KNOWN.get(name, set())}
    assert labels <= known, f"no such label: {labels - known}"
    return series


def check_template(text: str, pattern: str, expression: str) -> None:
    """Every label it shows is one that the series have when they have been through the expression."""
    kept = re.search(r"\bby \(([^)]*)\)", expression)
    series = metrics_of(expression)
    known = TARGET_LABELS | {label for name in series for label in KNOWN.get(name, set())}
    if kept is not None:
        known = set(re.split(r",\s*", kept[1]))
    used = set(re.findall(pattern, text))
    assert used <= known, f"{text}: no such label: {used - known}"


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_a_rule_is_whole_and_speaks_of_what_there_is(rule: dict[str, Any]) -> None:
    assert (
        {"alert", "expr", "labels", "annotations"}
        <= set(rule)
        <= {
            "alert",
            "expr",
            "for",
            "labels",
            "annotations",
        }
    )
    metrics_of(rule["expr"])
    assert rule["labels"]["severity"] in {"page", "warning"}
    assert re.fullmatch(r"\d+[smh]", rule.get("for", "1m"))
    assert set(rule["annotations"]) == {"summary", "runbook_url"}
    summary = rule["annotations"]["summary"]
    assert summary.endswith((".", "?"))
    assert "$labels.instance" in summary, "it must say which broker"
    check_template(summary, r"\$labels\.(\w+)", rule["expr"])
    assert re.sub(r"\{\{ \$(labels\.\w+|value)( \| humanize\w*)? \}\}", "", summary).count("{") == 0


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_a_rule_leads_to_a_paragraph_that_says_what_to_do(rule: dict[str, Any]) -> None:
    page, _, anchor = rule["annotations"]["runbook_url"].partition("#")
    text = (ROOT / page).read_text(encoding="utf-8")
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    assert anchor in [re.sub(r"[^\w-]", "", heading.lower().replace(" ", "-")) for heading in headings]
    assert f"`{rule['alert']}`" in text or f"# {rule['alert']}\n" in text


def test_there_is_an_alert_for_everything_that_must_not_go_unnoticed() -> None:
    assert {
        "BrokerNotReady",
        "PartitionFailed",
        "LogDamaged",
        "ReplicaStopped",
        "ReplicaLagging",
        "ReplicaLaggingBytes",
        "DiskLow",
        "RegistryFailed",
        "PutsFail",
        "ProbeFails",
        "GroupStuck",
        "GroupLagging",
        "ConnectionsHigh",
    } <= {rule["alert"] for rule in RULES}
    assert len({rule["alert"] for rule in RULES}) == len(RULES)


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: f"{target[0]}-{target[1]['refId']}")
def test_a_panel_reads_what_there_is(target: tuple[str, dict[str, Any]]) -> None:
    _, fields = target
    metrics_of(fields["expr"])
    check_template(fields["legendFormat"], r"\{\{(\w+)\}\}", fields["expr"])
    assert 'instance=~"$instance"' in fields["expr"], "it must follow the choice of brokers"


def test_the_dashboard_fits_together() -> None:
    board = json.loads(DASHBOARD.read_text(encoding="utf-8"))
    assert len({panel["id"] for panel in PANELS}) == len({panel["title"] for panel in PANELS}) == len(PANELS)
    assert [variable["name"] for variable in board["templating"]["list"]] == ["datasource", "instance"]
    (asked,) = re.findall(r"label_values\((\w+), instance\)", json.dumps(board["templating"]))
    assert asked in LABELS
    places = {(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in PANELS}
    assert len(places) == len(PANELS), "one panel lies on another"


def test_nothing_that_is_measured_is_missing_from_the_dashboard() -> None:
    shown = set().union(*(metrics_of(fields["expr"]) for _, fields in TARGETS))
    shown |= set().union(*(metrics_of(rule["expr"]) for rule in RULES))
    # Of a start, of the build, and of the lists themselves: worth a look now and then, and no curve.
    left_out = {
        "metaserver_build_info",
        "metaserver_partitions",
        "metaserver_partition_failed",
        "metaserver_unlisted_partitions",
        "metaserver_recovery_seconds",
        "metaserver_recovery_scanned_bytes",
        "metaserver_recovery_scanned_records",
        "metaserver_recovery_cut_bytes",
        "metaserver_recovery_damaged_ranges",
        "metaserver_replication_lag_messages",
        "metaserver_topic_get_requests_total",
        "metaserver_registry_nodes",
        "metaserver_registry_zxid",
    }
    assert set(LABELS) - shown == left_out


@pytest.mark.parametrize(
    "expression",
    [
        "metaserver_nothing > 0",
        "metaserver_probe_nothing > 0",
        'metaserver_connections{topic="t"} > 0',
        "sum by (path) (metaserver_connections)",
        "frobnicate(metaserver_connections)",
        "1 > 0",
    ],
)
def test_what_there_is_not_is_noticed(expression: str) -> None:
    with pytest.raises(AssertionError):
        metrics_of(expression)


def test_the_reader_of_yaml() -> None:
    text = 'a:\n  - b: 1\n    c:\n      d: "x: y"\n  - b: 2\n# no\ne: f > 0\n'
    assert parse_yaml(text) == {"a": [{"b": "1", "c": {"d": "x: y"}}, {"b": "2"}], "e": "f > 0"}
    for wrong in ("a: b: c", "a", "a: 1\n   b: 2", "a:\nb: 1", "a: 1\na: 2", "a: [1]"):
        with pytest.raises(AssertionError):
            parse_yaml(wrong)
