"""docs/compatibility: everything that MetaQ has stands there, and everything that it names is in the code."""

from __future__ import annotations

import ast
import inspect
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from unittest.mock import MagicMock

import click
import pytest

import metaserver.broker.reports
import metaserver.protocol.decoder
import metaserver.registry.paths
import metaserver.storage.filenames
from metaserver.cli.main import VERBS, commands
from metaserver.client.profile import KEYS as PROFILE_KEYS
from metaserver.config import schema
from metaserver.http.application import Parts, build_application
from metaserver.protocol import Status, TransactionAction, XaCode

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from types import ModuleType

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = ROOT / "docs" / "compatibility"
TABLES = ("wire", "configuration", "command-line", "monitoring", "storage", "clients")
"""Beside them: scenarios, which tests/interop/test_scenarios.py holds."""

REFERENCE = {
    "wire": """
        put get offset stats version quit transaction sync
        BEGIN END PREPARE COMMIT_ONE_PHASE COMMIT_TWO_PHASE ROLLBACK FORGET RECOVER
    """,
    "configuration": """
        brokerId serverPort dashboardHttpPort hostName dataPath dataLogPath appClassPath numPartitions
        unflushThreshold unflushInterval maxSegmentSize maxTransferSize getProcessThreadCount
        putProcessThreadCount deletePolicy deleteWhen quartzThreadCount maxCheckpoints checkpointInterval
        maxTxTimeoutTimerCapacity maxTxTimeoutInSeconds flushTxLogAtCommit acceptPublish acceptSubscribe stat
        updateConsumerOffsets loadMessageStoresInParallel
        zk.zkConnect zk.zkEnable zk.zkRoot zk.zkSessionTimeoutMs zk.zkConnectionTimeoutMs zk.zkSyncTimeMs
        group.GROUP
        slaveId slaveGroup slaveMaxDelayInMills autoSyncMasterConfig
        slave callbackThreadCount recoverOffset recoverParallel recoverParallelHint sendToSlaveTimeoutInMills
        checkSlaveIntervalInMills slaveContinuousFailureThreshold
        meta.home meta.fast_boot meta.get.tellMaxOffset meta.realtime.stat meta.tx_journal_file_size
        meta.slave.config.encoding metaq.slave.status.test.topic metaq.consumer.message_ids.lru_cache.size
        metaq.log4j.daily.rolling.file.appender.log.bufferSize notify.systimer.tick
        notify.remoting.connection.timeout_threshold notify.remoting.max_read_buffer_size web.jetty.threads
        zk.server.port zk.server.tickTime zk.server.snapDirectory zk.server.logDirectory
        zk.server.max.connections
    """,
    "command-line": """
        start stop restart status reload slave-status stats query open-partitions close-partitions
        delete-partitions move-partitions help -host -port -f -l -Fmetaslave=FILE -Fsamsa=FILE -Fgregor=FILE
        -FjettyBroker=FILE BASE_DIR JAVA_HOME BROKER_ARGS TOOLS_ARGS JMX_PORT enableHttp showoffset
        slave-reloadconfig.sh tools-monitor-start.sh
    """,
    "monitoring": """
        topics offsets realtime help reset config
        pid broker_id port uptime version slave curr_connections threads cmd_put cmd_get cmd_offset tx_begin
        tx_xa_begin tx_commit tx_rollback get_miss put_failed total_messages config_checksum
        reload() closePartitions(topic, start, end) openPartitions(topic) stop() restart() Status
        preparedTransactions preparedTransactionCount commitTransactionHeuristically(key, onePhase)
        rollbackTransactionHeuristically(key) completeTransactionHeuristically(key) makeCheckpoint()
        ActiveTransactionCount
        /dashboard /logging /cluster /java-properties /thread-dump /config /reload-config /topics
        /topics/{topic} /topics/{topic}/groups/{group}/partitions/{partition}/skip /stats /stats/{item}
        /get… /put… /offset…
    """,
    "storage": """
        /brokers/ids/B /brokers/ids/B/master /brokers/ids/B/slaveS /brokers/ids/B/master_config_checksum
        /brokers/topics/T/B-m /brokers/topics/T/B-sS /brokers/topics-pub/T/B-m /brokers/topics-pub/T/B-sS
        /brokers/topics-sub/T/B-m /brokers/topics-sub/T/B-sS /consumers/G/ids/ID /consumers/G/offsets/T/B-P
        /consumers/G/owners/T/B-P
        START.meta START.meta.arc START.meta.zip DATALOGPATH/transactions/redo.N checkpoint.N heuristic.log
        logs/.run.pid logs/metaServer.log logs/transfer.log logs/slave.log logs/timetunnel.log
    """,
    "clients": """
        serverUrl zk.zkConnect zk.zkRoot zk.zkEnable zk.zkSessionTimeoutMs zk.zkConnectionTimeoutMs
        zk.zkSyncTimeMs recoverMessageIntervalInMills recoverThreadCount partitionsInfo
        group consumerId fetchRunnerCount maxDelayFetchTimeInMills maxDelayFetchTimeWhenExceptionInMills
        fetchTimeoutInMills commitOffsetPeriodInMills maxFetchRetries maxIncreaseFetchDataRetries offset
        alwaysConsumeFromMaxOffset partition loadBalanceStrategyType
        metaq.client.network.max.reconnect.times metaq.network.tcp_nodelay
        metaq.network.max_schedule_written_bytes metaq.client.loopback.connection.enable
        metaq.client.xaproducer.hostname meta.send.timeout.threshold notify.remoting.max_read_buffer_size
        meta.localmessage.path meta.localmessage.codec meta.async.storage.path
        meta.ordered.saveToLocalWhenFailed
    """,
}
"""What MetaQ 1.4.6 has, by document; each must be named in front of what is said of it."""

_HERE = re.compile(r"same(?=$|[ :;,])|better: \S|left out: \S")
_SPAN = re.compile(r"`+([^`]+?)`+")
_CELLS = re.compile(r"(?<!\\)\|")


class Row(NamedTuple):
    """Of a table, below the last heading."""

    heading: str
    names: str
    """All cells but the last."""
    here: str

    @property
    def spans(self) -> list[str]:
        """What stands in backticks in front."""
        return _SPAN.findall(self.names.replace("\\|", "|"))


def rows(document: str, heading: str | None = None) -> list[Row]:
    return [row for row in _rows(document) if heading in (None, row.heading)]


def _rows(document: str) -> Iterator[Row]:
    current, is_body = "", False
    for line in (DOCUMENTS / f"{document}.md").read_text(encoding="utf-8").splitlines():
        if line.startswith("#"):
            current = line.lstrip("# ")
        if not line.startswith("|"):
            is_body = False
        elif line.startswith("|---"):
            is_body = True
        elif is_body:
            cells = [cell.strip() for cell in _CELLS.split(line)[1:-1]]
            yield Row(current, " | ".join(cells[:-1]), cells[-1])


def spans(document: str, heading: str | None = None) -> set[str]:
    return {span for row in rows(document, heading) for span in row.spans}


def first_words(document: str, heading: str | None = None) -> set[str]:
    return {span.split(" ")[0] for span in spans(document, heading)}


def source() -> str:
    """All code of the package."""
    return "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "metaserver").rglob("*.py"))


@pytest.mark.parametrize("document", TABLES)
def test_every_row_says_one_of_the_three_words(document: str) -> None:
    found = rows(document)
    assert found
    assert [row for row in found if not _HERE.match(row.here)] == []


def test_there_are_no_other_documents() -> None:
    assert {path.stem for path in DOCUMENTS.iterdir()} == {*TABLES, "scenarios"}


def anchors(path: Path) -> set[str]:
    """What a link may name in a document, made of its headings."""
    headings = re.findall(r"^#+ (.*)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize(
    "document", [*DOCUMENTS.iterdir(), DOCUMENTS.with_suffix(".md")], ids=lambda path: path.stem
)
def test_links_lead_somewhere(document: Path) -> None:
    found = re.findall(r"\]\(([^)#]*)#?([^)]*)\)", document.read_text(encoding="utf-8"))
    for target, anchor in found:
        path = (document.parent / target).resolve() if target else document
        assert path.exists(), target
        assert not anchor or anchor in anchors(path), f"{target}#{anchor}"


@pytest.mark.parametrize("document", TABLES)
def test_nothing_that_metaq_has_is_forgotten(document: str) -> None:
    named = {word for span in spans(document) for word in re.split(r"[ \[\]]+", span)}
    assert set(REFERENCE[document].split()) - named == set()


# The wire.


def words_of(module: ModuleType, subject: str) -> set[str]:
    """The texts that a match statement of this subject tells apart."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(inspect.getsource(module))):
        if isinstance(node, ast.Match) and ast.unparse(node.subject) == subject:
            for case in node.cases:
                values = [value for value in ast.walk(case.pattern) if isinstance(value, ast.MatchValue)]
                found |= {str(ast.literal_eval(value.value)) for value in values}
    return found


def test_commands_of_the_decoder() -> None:
    known = words_of(metaserver.protocol.decoder, "words[0]") | {"version", "quit"}
    assert known > {"put", "successor"}
    assert known - {"result", "value"} == first_words("wire", "Commands") | first_words("wire", "Ours")


def test_statuses_actions_and_codes() -> None:
    statuses = {row.names.split(" | ")[0] for row in rows("wire", "Statuses")}
    assert statuses == {str(int(status)) for status in Status} | {"value", "none", "401", "504"}
    assert spans("wire", "Transactions") >= set(TransactionAction)
    codes = {
        int(code)
        for row in rows("wire", "Codes")
        for code in re.findall(r"-?[0-9]+", row.names.split(" | ")[0])
    }
    assert codes == set(map(int, XaCode)) | {8}


# Configuration.

TABLES_OF_KEYS: dict[str, set[str]] = {
    "[system]": set(schema.SYSTEM_KEYS),
    "[zookeeper]": set(schema.ZOOKEEPER_KEYS),
    "[topic=NAME]": {*schema.TOPIC_KEYS, "group.GROUP", "*"},
    "async_slave.properties": set(schema.SLAVE_KEYS),
    "samsa_master.properties, gregor_slave.properties, jettyBroker.properties": {
        *schema.SAMSA_KEYS,
        "serverPort",
    },
}


@pytest.mark.parametrize("heading", TABLES_OF_KEYS)
def test_keys_that_the_loader_knows(heading: str) -> None:
    assert spans("configuration", heading) == TABLES_OF_KEYS[heading]


def test_keys_of_a_gregor() -> None:
    (row,) = [row for row in rows("configuration") if row.names == "gregor: no keys"]
    assert set(_SPAN.findall(row.here)) == set(schema.GREGOR_KEYS)


def test_names_that_mean_nothing() -> None:
    named = spans("configuration", "The syntax of server.ini")
    assert named >= schema.IGNORED_SYSTEM_NAMES | schema.IGNORED_TOPIC_NAMES


@pytest.mark.parametrize(
    ("heading", "keys"),
    [
        ("[system]", schema.SYSTEM_KEYS),
        ("[topic=NAME]", schema.TOPIC_KEYS),
        ("[zookeeper]", schema.ZOOKEEPER_KEYS),
        ("async_slave.properties", schema.SLAVE_KEYS),
        ("samsa_master.properties, gregor_slave.properties, jettyBroker.properties", schema.SAMSA_KEYS),
    ],
)
def test_what_is_left_out_is_used_nowhere_and_the_rest_somewhere(
    heading: str, keys: Mapping[str, schema.Key]
) -> None:
    code = source()
    for row in rows("configuration", heading):
        for name in row.spans:
            if name in keys and not row.names.startswith("jettyBroker"):
                uses = re.findall(rf"\.{keys[name].field}\b", code)
                assert bool(uses) != row.here.startswith("left out: "), name


# The command line.


def options_of(verb: str) -> set[str]:
    command = commands.get_command(click.Context(commands), verb)
    assert command is not None
    return {option for parameter in command.params for option in parameter.opts}


def test_verbs() -> None:
    assert set(VERBS) - first_words("command-line") == set()


def test_options_of_metaqs_commands() -> None:
    checked = 0
    for row in rows("command-line", "metaServer.sh"):
        for span in row.spans:
            verb, *words = span.replace("[", "").replace("]", "").split(" ")
            if verb in VERBS:
                options = {word for word in words if re.fullmatch(r"-\w+", word)}
                assert options <= options_of(verb), verb
                checked += len(options)
    assert checked > 10
    for verb in ("reload", "slave-status", "open-partitions", "close-partitions"):
        assert options_of(verb) >= {"-host", "-port"}


# Statistics, pages, logs, monitor.


def test_items_and_lines_of_stats() -> None:
    items = words_of(metaserver.broker.reports, "item.strip()") - {""} | {"config"}
    named = spans("monitoring", "stats")
    assert items - named == set()
    lines: set[str] = set()
    for node in ast.walk(ast.parse(inspect.getsource(metaserver.broker.reports))):
        if isinstance(node, ast.FunctionDef) and node.name == "_system":
            for inner in ast.walk(node):
                if isinstance(inner, ast.Dict):
                    lines |= {str(ast.literal_eval(key)) for key in inner.keys if key is not None}
                if isinstance(inner, ast.Subscript) and isinstance(inner.slice, ast.Constant):
                    lines.add(str(inner.slice.value))
    assert len(lines) > 20
    assert lines - named == set()


def test_every_page_that_is_served() -> None:
    nothing: Any = MagicMock()
    application = build_application(nothing, Parts(nothing, nothing, nothing, nothing))
    paths = {
        re.sub(r"\{(\w+):\w+\}", r"{\1}", str(getattr(route, "path", ""))) for route in application.routes
    }
    assert len(paths) > 40
    text = (DOCUMENTS / "monitoring.md").read_text(encoding="utf-8")
    named = {span.split("?")[0].split(" ")[-1] for span in _SPAN.findall(text)}
    assert paths - named == set()


def test_metrics_and_alerts_that_are_named() -> None:
    text = (DOCUMENTS / "monitoring.md").read_text(encoding="utf-8")
    metrics = (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8")
    for name in re.findall(r"`(metaserver_\w+)`", text):
        assert f"`{name}" in metrics
    alerts = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "conf").glob("alerts*.yml"))
    named = [
        name
        for row in rows("monitoring", "The monitor")
        for name in re.findall(r"`([A-Z][a-z]+[A-Z]\w+)`", row.here)
    ]
    assert named
    for name in named:
        assert f"alert: {name}\n" in alerts


def test_lines_of_the_log_that_are_the_same() -> None:
    messages = "\n".join(re.findall(r"_log\.\w+\(\s*\"([^\"]+)\"", source()))
    found = [row for row in rows("monitoring", "Lines of the log") if row.here.startswith("same")]
    assert found
    for piece in (piece.strip() for row in found for span in row.spans for piece in span.split("…")):
        assert piece in messages


# ZooKeeper and files.


def test_nodes_of_the_registry() -> None:
    text = inspect.getdoc(metaserver.registry.paths)
    assert text is not None
    nodes: set[str] = set()
    for path, other in re.findall(r"^ *ROOT(\S+)(?:  or  (\S+))?", text, re.MULTILINE):
        nodes |= {path, *([f"{path.rpartition('/')[0]}/{other}"] if other else [])}
    assert len(nodes) > 10
    assert nodes - spans("storage", "Nodes in ZooKeeper") == set()


def test_files_of_the_storage() -> None:
    names = {value for name, value in vars(metaserver.storage.filenames).items() if name.endswith("_NAME")}
    assert len(names) > 10
    named = {span.strip("/").rpartition("/")[2] for span in spans("storage", "Files")}
    assert names - named == set()


# Clients.


def test_options_of_the_python_client() -> None:
    here = [
        row.here
        for row in rows("clients", "Settings of every client") + rows("clients", "Settings of a consumer")
    ]
    named = _named_options(here)
    assert len(named) > 5
    assert named - set(PROFILE_KEYS) == set()


def _named_options(texts: Iterable[str]) -> set[str]:
    return {
        name
        for text in texts
        for name in re.findall(r"`([a-z]+(?:_[a-z]+)*)(?: = [^`]*)?`", text)
        if "_" in name
    }
