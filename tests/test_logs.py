from __future__ import annotations

import json
import logging
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from metaserver.errors import ConfigError
from metaserver.logs import (
    LogFormat,
    LoggingSettings,
    configure_logging,
    get_logger,
    keep_recent_lines,
    parse_logging_settings,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

SHAPE = re.compile(r"\[[A-Z]+\] \[\S+\] \d\d-\d\d \d\d:\d\d:\d\d,\d{3} \[\w+\] - \S.*")


def fail(text: str) -> NoReturn:
    raise ValueError(text)


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    for handler in root.handlers:
        if handler not in handlers:
            handler.close()
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.getLogger("metaserver.quiet").setLevel(logging.NOTSET)
    structlog.reset_defaults()


def lines(capsys: pytest.CaptureFixture[str]) -> list[str]:
    captured = capsys.readouterr()
    assert captured.out == ""
    return captured.err.splitlines()


def record(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    (line,) = lines(capsys)
    value: dict[str, Any] = json.loads(line)
    return value


def test_text_has_the_shape_operators_know(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("text", "info")
    get_logger("metaserver.broker.appender").info("created segment", topic="orders", partition=0)
    (line,) = lines(capsys)
    assert SHAPE.fullmatch(line)
    assert line.startswith("[INFO] [main] ")
    assert line.endswith(" [appender] - created segment topic=orders partition=0")


@pytest.mark.parametrize(
    ("method", "word"), [("warning", "WARN"), ("error", "ERROR"), ("critical", "FATAL"), ("debug", "DEBUG")]
)
def test_levels_are_the_words_of_metaq(capsys: pytest.CaptureFixture[str], method: str, word: str) -> None:
    configure_logging("text", "debug")
    getattr(get_logger("metaserver.x"), method)("happened")
    (line,) = lines(capsys)
    assert line.startswith(f"[{word}] ")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (5, "5"),
        ("plain", "plain"),
        ("two words", '"two words"'),
        ("", '""'),
        ('a"b', '"a\\"b"'),
        ("a=b", '"a=b"'),
        ("line\nbreak", '"line\\nbreak"'),
        ("esc\x1b[31m", '"esc\\u001b[31m"'),
        ("grün", "grün"),
        (None, "None"),
        (Path("/a/b"), "/a/b"),
    ],
)
def test_values_in_text(capsys: pytest.CaptureFixture[str], value: object, text: str) -> None:
    configure_logging("text", "info")
    get_logger("metaserver.x").info("happened", key=value)
    (line,) = lines(capsys)
    assert line.endswith(f" - happened key={text}")


@given(event=st.text(min_size=1), value=st.text())
@pytest.mark.parametrize("log_format", ["text", "json"])
def test_no_content_makes_a_second_line(log_format: LogFormat, event: str, value: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        written: list[str] = []
        patch.setattr(sys, "stderr", _Sink(written))
        configure_logging(log_format, "info")
        get_logger("metaserver.x").info(event, key=value)
    text = "".join(written)
    assert text.endswith("\n")
    assert len(text.splitlines()) == 1
    assert text[:-1].isprintable() or log_format == "json"


class _Sink:
    def __init__(self, written: list[str]) -> None:
        self._written = written

    def write(self, text: str) -> None:
        self._written.append(text)

    def flush(self) -> None:
        pass


def test_json_is_one_object_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("json", "info")
    get_logger("metaserver.broker.appender").warning("slow fsync", path=Path("/d"), seconds=0.5)
    value = record(capsys)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", value.pop("time"))
    assert value == {
        "level": "warning",
        "logger": "metaserver.broker.appender",
        "thread": "MainThread",
        "message": "slow fsync",
        "path": "/d",
        "seconds": 0.5,
    }


def test_a_field_does_not_replace_one_of_ours(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("json", "info")
    get_logger("metaserver.x").info("happened", level="forged", name="n", args="a", message="m")
    value = record(capsys)
    assert value["level"] == "info"
    assert value["level_"] == "forged"
    assert (value["name"], value["args"], value["message"], value["message_"]) == ("n", "a", "happened", "m")


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_exceptions_are_written_out(capsys: pytest.CaptureFixture[str], log_format: LogFormat) -> None:
    configure_logging(log_format, "info")
    try:
        fail("the detail")
    except ValueError:
        get_logger("metaserver.x").exception("failed", key=1)
    if log_format == "json":
        value = record(capsys)
        assert value["exception"].startswith("Traceback ")
        assert value["exception"].endswith("ValueError: the detail")
    else:
        first, second, *_, last = lines(capsys)
        assert first.endswith(" - failed key=1")
        assert second.startswith("    Traceback ")
        assert last == "    ValueError: the detail"


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_libraries_log_in_the_same_form(capsys: pytest.CaptureFixture[str], log_format: LogFormat) -> None:
    configure_logging(log_format, "info")
    try:
        fail("the detail")
    except ValueError:
        logging.getLogger("kazoo.client").exception("lost %s\n", "session")
    if log_format == "json":
        value = record(capsys)
        assert value["message"] == "lost session\n"
        assert value["exception"].endswith("ValueError: the detail")
    else:
        first, *_, last = lines(capsys)
        assert SHAPE.fullmatch(first)
        assert first.endswith(" [client] - lost session\\n")
        assert last == "    ValueError: the detail"


def test_the_text_of_an_exception_cannot_forge_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("text", "info")
    try:
        fail("x\n[INFO] [main] 01-01 00:00:00,000 [x] - forged\rmore")
    except ValueError:
        get_logger("metaserver.x").exception("failed")
    assert [SHAPE.fullmatch(line) is not None for line in lines(capsys)].count(True) == 1


def test_lines_below_the_level_are_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("text", "warning")
    get_logger("metaserver.x").info("quiet")
    logging.getLogger("kazoo").info("quiet")
    assert lines(capsys) == []


def test_settings_give_levels(capsys: pytest.CaptureFixture[str]) -> None:
    settings = LoggingSettings(level="error", levels=(("metaserver.quiet", "debug"),))
    configure_logging("text", "info", settings=settings)
    get_logger("metaserver.x").warning("left out")
    get_logger("metaserver.quiet.below").debug("shown")
    (line,) = lines(capsys)
    assert line.endswith("shown")


def test_configuring_again_replaces_the_first(capsys: pytest.CaptureFixture[str]) -> None:
    logger = get_logger("metaserver.x")
    configure_logging("text", "info")
    logger.info("first")
    configure_logging("json", "info")
    logger.info("second")
    first, second = lines(capsys)
    assert SHAPE.fullmatch(first)
    assert json.loads(second)["message"] == "second"


def test_the_plain_structlog_logger_works_too(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("text", "info")
    structlog.get_logger("metaserver.broker").info("happened", key=1)
    (line,) = lines(capsys)
    assert line.endswith(" [broker] - happened key=1")


def test_a_file_is_rotated_at_its_size(tmp_path: Path) -> None:
    path = tmp_path / "metaServer.log"
    configure_logging(
        "text", "info", path=path, settings=LoggingSettings(rotation_bytes=1000, rotation_files=2)
    )
    logger = get_logger("metaserver.x")
    for number in range(100):
        logger.info("happened", number=number)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == [
        "metaServer.log",
        "metaServer.log.1",
        "metaServer.log.2",
    ]
    assert all(entry.stat().st_size <= 1000 for entry in tmp_path.iterdir())
    assert path.read_text(encoding="utf-8").endswith("number=99\n")


def test_a_file_is_continued(tmp_path: Path) -> None:
    path = tmp_path / "metaServer.log"
    path.write_text("before\n", encoding="utf-8")
    configure_logging("text", "info", path=path)
    get_logger("metaserver.x").info("grün \udcff")
    before, line = path.read_text(encoding="utf-8").splitlines()
    assert before == "before"
    assert "gr" in line


def test_a_file_that_cannot_be_opened(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="missing"):
        configure_logging("text", "info", path=tmp_path / "missing" / "metaServer.log")


def test_standard_error_follows_the_file_through_rotations(tmp_path: Path) -> None:
    # What Python writes itself, here the traceback of the end, must not land in a rotated file.
    path = tmp_path / "metaServer.log"
    program = f"""
import pathlib
from metaserver.logs import LogFormat, LoggingSettings, configure_logging, get_logger
configure_logging("text", "info", path=pathlib.Path({str(path)!r}), redirect_stderr=True,
                  settings=LoggingSettings(rotation_bytes=1000, rotation_files=1))
for number in range(100):
    get_logger("metaserver.x").info("happened", number=number)
raise SystemExit("the last words")
"""
    finished = subprocess.run([sys.executable, "-c", program], capture_output=True, check=False)
    assert finished.returncode == 1
    assert finished.stderr == b""
    assert path.read_text(encoding="utf-8").endswith("the last words\n")


def test_settings_of_a_whole_file() -> None:
    text = """
level = "warning"
[levels]
"metaserver.broker" = "debug"
[rotation]
bytes = 1000000
files = 3
"""
    assert parse_logging_settings(text, "logging.toml") == LoggingSettings(
        level="warning", levels=(("metaserver.broker", "debug"),), rotation_bytes=1_000_000, rotation_files=3
    )


def test_an_empty_file_is_the_default() -> None:
    assert parse_logging_settings("", "logging.toml") == LoggingSettings()


def test_every_problem_is_told_at_once() -> None:
    text = """
level = "loud"
colour = true
[levels]
"metaserver" = 5
[rotation]
bytes = 10
files = true
size = 1
"""
    with pytest.raises(ConfigError) as caught:
        parse_logging_settings(text, "conf/logging.toml")
    assert caught.value.problems == (
        "conf/logging.toml: colour: unknown; the keys are level, levels, rotation",
        "conf/logging.toml: [rotation] size: unknown; the keys are bytes, files",
        "conf/logging.toml: level: 'loud' is no level; the levels are debug, info, warning, error",
        "conf/logging.toml: [levels] metaserver: 5 is no level; the levels are debug, info, warning, error",
        "conf/logging.toml: [rotation] bytes: 10 is no number from 65536 to 4294967296",
        "conf/logging.toml: [rotation] files: True is no number from 1 to 1000",
    )


@pytest.mark.parametrize(
    "text", ["level = ", "levels = 5", "rotation = []", 'level = ["info"]', "[levels]\na = {}"]
)
def test_what_is_no_settings_file(text: str) -> None:
    with pytest.raises(ConfigError, match=r"logging\.toml: "):
        parse_logging_settings(text, "logging.toml")


def test_the_journal_is_told_how_bad_each_line_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with (tmp_path / "journal").open("w+", encoding="utf-8") as stream:
        status = os.fstat(stream.fileno())
        monkeypatch.setenv("JOURNAL_STREAM", f"{status.st_dev}:{status.st_ino}")
        monkeypatch.setattr(sys, "stderr", stream)
        configure_logging("text", "debug")
        log = get_logger("metaserver.x")
        log.debug("small")
        log.info("usual")
        log.warning("odd")
        try:
            fail("because")
        except ValueError:
            log.exception("bad")
        stream.flush()
        stream.seek(0)
        lines = stream.read().splitlines()
    assert [line[:3] for line in lines[:4]] == ["<7>", "<6>", "<4>", "<3>"]
    assert lines[-1] == "<3>    ValueError: because"
    assert all(line.startswith("<3>") for line in lines[3:])


def test_a_terminal_is_no_journal(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("JOURNAL_STREAM", "1:1")
    configure_logging("text", "info")
    get_logger("metaserver.x").info("usual")
    assert capfd.readouterr().err.startswith("[INFO]")


def test_recent_lines_are_kept() -> None:
    recent = keep_recent_lines(2)
    try:
        for number in range(3):
            get_logger("metaserver.x").warning("line", number=number)
        assert [line.rpartition(" - ")[2] for line in recent.lines] == ["line number=1", "line number=2"]
        assert recent.lines[0].startswith("[WARN] [main] ")
    finally:
        logging.getLogger().removeHandler(recent)
