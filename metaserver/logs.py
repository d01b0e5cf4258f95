"""Log lines: structlog in front, the standard library's handlers behind.

Text lines keep the shape that MetaQ's operators know, with the fields of the event at the end::

    [INFO] [main] 11-21 06:10:03,042 [appender] - created segment topic=orders partition=0

JSON lines are one object each, for machines. Records of libraries that use the standard library's
logging (hypercorn, kazoo, trio) come out in the same form. Control characters are escaped, so a
client cannot forge a line.

``conf/logging.toml`` may set levels and rotation::

    level = "info"
    [levels]
    "metaserver.broker" = "debug"
    [rotation]
    bytes = 67108864
    files = 5
"""

from __future__ import annotations

import json
import logging
import logging.handlers
import os
import sys
import time
from collections import deque
from typing import TYPE_CHECKING, Any, Literal, TextIO, cast

import attrs
import structlog
import tomli

from metaserver.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping, MutableMapping
    from pathlib import Path

    from structlog.typing import Processor

LogFormat = Literal["text", "json"]

LEVELS: Mapping[str, int] = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}
"""The names a configuration may use."""

_ROTATION_BYTES_RANGE = range(64 * 1024, 4 * 1024**3 + 1)
_ROTATION_FILES_RANGE = range(1, 1001)

_LEVEL_TEXTS = {"WARNING": "WARN", "CRITICAL": "FATAL"}
"""MetaQ's words where Python's differ."""

_PRIORITIES = ((logging.CRITICAL, 2), (logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6), (0, 7))
"""Python's levels, from the worst on, and syslog's numbers for them."""

_INTERNAL_KEYS = ("event", "_record", "_from_structlog", "exception", "stack")


@attrs.frozen(kw_only=True)
class LoggingSettings:
    """What ``logging.toml`` may set."""

    level: str | None = None
    """Of all loggers that have no level of their own; None leaves it to the command line."""
    levels: tuple[tuple[str, str], ...] = ()
    """(logger, level); the names are those of the modules, and hold for everything below them."""
    rotation_bytes: int = 64 * 1024**2
    """A log file that would grow beyond this is renamed to ``.1`` and a new one begun."""
    rotation_files: int = 5
    """How many old files are kept beside the current one."""


def get_logger(name: str) -> structlog.stdlib.BoundLogger:
    """Return the logger of a module; usable before, and without, :func:`configure_logging`.

    Events are short lower-case sentences without values; the values are keyword arguments.
    """
    return cast(
        "structlog.stdlib.BoundLogger",
        structlog.wrap_logger(
            logging.getLogger(name),
            processors=_PROCESSORS,
            wrapper_class=structlog.stdlib.BoundLogger,
            cache_logger_on_first_use=True,
        ),
    )


def configure_logging(
    log_format: LogFormat,
    level: str,
    *,
    settings: LoggingSettings | None = None,
    path: Path | None = None,
    redirect_stderr: bool = False,
) -> None:
    """Send all log lines to standard error, or to the rotated file at ``path``; may be called again.

    ``level`` is one of :data:`LEVELS`; the one of ``settings``, where set, wins. With
    ``redirect_stderr`` the process's standard error follows the file through its rotations, so
    that what Python itself writes there (a fatal traceback) lands in the same place.

    Raises:
        OSError: the file cannot be opened.

    """
    settings = settings or LoggingSettings()
    handler = _make_handler(settings, path, redirect_stderr=redirect_stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            processors=[
                _format_exception,
                _renderer(log_format, is_journal=path is None and _is_journal(sys.stderr)),
            ]
        )
    )
    structlog.configure(
        processors=_PROCESSORS,
        wrapper_class=structlog.stdlib.BoundLogger,
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )
    root = logging.getLogger()
    for old in root.handlers[:]:
        if isinstance(old.formatter, structlog.stdlib.ProcessorFormatter):
            root.removeHandler(old)
            old.close()
    root.addHandler(handler)
    root.setLevel(LEVELS[settings.level or level])
    for name, its_level in settings.levels:
        logging.getLogger(name).setLevel(LEVELS[its_level])


class RecentLines(logging.Handler):
    """The last log lines of the process, in memory, as text; made by :func:`keep_recent_lines`."""

    def __init__(self, count: int) -> None:
        """Keep so many."""
        super().__init__()
        self._lines: deque[str] = deque(maxlen=count)
        self.setFormatter(structlog.stdlib.ProcessorFormatter(processors=[_format_exception, _render_text]))

    @property
    def lines(self) -> list[str]:
        """The oldest first; a traceback is part of its line."""
        return list(self._lines)

    def emit(self, record: logging.LogRecord) -> None:
        """Keep one."""
        # Called with the handler's lock held, by whichever thread logs.
        try:
            self._lines.append(self.format(record))
        except Exception:  # noqa: BLE001 - as every handler: a line that cannot be written must not end its writer
            self.handleError(record)


def keep_recent_lines(count: int) -> RecentLines:
    """Keep what is logged from now on; call :meth:`logging.Logger.removeHandler` of the root to end it."""
    handler = RecentLines(count)
    logging.getLogger().addHandler(handler)
    return handler


def load_logging_settings(path: Path) -> LoggingSettings:
    """What the file says; the defaults where there is none. Raises ConfigError."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return LoggingSettings()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError((f"{path}: cannot be read: {error}",)) from error
    return parse_logging_settings(text, str(path))


def parse_logging_settings(text: str, source: str) -> LoggingSettings:
    """Read the text of a ``logging.toml``; ``source`` names the file in problems.

    Raises:
        ConfigError: with every problem of the text.

    """
    try:
        document = tomli.loads(text)
    except tomli.TOMLDecodeError as error:
        raise ConfigError((f"{source}: {error}",)) from error
    problems: list[str] = []
    _report_unknown(document, ("level", "levels", "rotation"), "", problems)
    levels = _table(document, "levels", problems)
    rotation = _table(document, "rotation", problems)
    _report_unknown(rotation, ("bytes", "files"), "[rotation] ", problems)
    if "level" in document:
        _check_level(document["level"], "level", problems)
    for name, its_level in levels.items():
        _check_level(its_level, f"[levels] {name}", problems)
    defaults = LoggingSettings()
    rotation_bytes = rotation.get("bytes", defaults.rotation_bytes)
    rotation_files = rotation.get("files", defaults.rotation_files)
    _check_number(rotation_bytes, _ROTATION_BYTES_RANGE, "[rotation] bytes", problems)
    _check_number(rotation_files, _ROTATION_FILES_RANGE, "[rotation] files", problems)
    if problems:
        raise ConfigError(tuple(f"{source}: {problem}" for problem in problems))
    return LoggingSettings(
        level=document.get("level"),
        levels=tuple(levels.items()),
        rotation_bytes=rotation_bytes,
        rotation_files=rotation_files,
    )


class _FollowedFileHandler(logging.handlers.RotatingFileHandler):
    """A rotating file that standard error (descriptor 2) follows."""

    def _open(self) -> Any:  # noqa: ANN401  the base class's type is private to the stubs
        stream = super()._open()
        os.dup2(stream.fileno(), 2)
        return stream


def _make_handler(settings: LoggingSettings, path: Path | None, *, redirect_stderr: bool) -> logging.Handler:
    if path is None:
        return logging.StreamHandler(sys.stderr)
    handler_class = _FollowedFileHandler if redirect_stderr else logging.handlers.RotatingFileHandler
    return handler_class(
        path,
        encoding="utf-8",
        errors="backslashreplace",
        maxBytes=settings.rotation_bytes,
        backupCount=settings.rotation_files,
    )


_format_exception = structlog.processors.format_exc_info

_PROCESSORS: list[Processor] = [
    structlog.stdlib.filter_by_level,
    structlog.contextvars.merge_contextvars,
    structlog.stdlib.PositionalArgumentsFormatter(),
    structlog.processors.StackInfoRenderer(),
    structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
]


def _render_text(_logger: object, _method: str, event: MutableMapping[str, Any]) -> str:
    record: logging.LogRecord = event["_record"]
    moment = time.strftime("%m-%d %H:%M:%S", time.localtime(record.created))
    thread = "main" if record.threadName == "MainThread" else record.threadName
    head = (
        f"[{_LEVEL_TEXTS.get(record.levelname, record.levelname)}] [{thread}] "
        f"{moment},{int(record.msecs):03d} [{record.name.rpartition('.')[2]}] - {_one_line(event['event'])}"
    )
    fields = "".join(f" {key}={_field_text(value)}" for key, value in _fields(event).items())
    trailers = "".join(f"\n{_indented(event[key])}" for key in ("stack", "exception") if event.get(key))
    return head + fields + trailers


def _renderer(log_format: LogFormat, *, is_journal: bool) -> Processor:
    if log_format == "json":
        return _render_json
    return _render_for_journal if is_journal else _render_text


def _is_journal(stream: TextIO) -> bool:
    """Whether systemd's journal reads the stream: then it wants to know how bad a line is (sd-daemon(3))."""
    named = os.environ.get("JOURNAL_STREAM")
    if not named:
        return False
    try:
        status = os.fstat(stream.fileno())
    except (OSError, ValueError):
        return False
    return named == f"{status.st_dev}:{status.st_ino}"


def _render_for_journal(logger: object, method: str, event: MutableMapping[str, Any]) -> str:
    record: logging.LogRecord = event["_record"]
    priority = next(number for level, number in _PRIORITIES if record.levelno >= level)
    # Each line of a traceback is an entry of its own there.
    return "\n".join(f"<{priority}>{line}" for line in _render_text(logger, method, event).split("\n"))


def _render_json(_logger: object, _method: str, event: MutableMapping[str, Any]) -> str:
    record: logging.LogRecord = event["_record"]
    moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
    line: dict[str, object] = {
        "time": f"{moment}.{int(record.msecs):03d}Z",
        "level": record.levelname.lower(),
        "logger": record.name,
        "thread": record.threadName,
        "message": str(event["event"]),
    }
    for key in ("stack", "exception"):
        if event.get(key):
            line[key] = event[key]
    # A field never replaces one of ours: whoever reads the lines relies on them.
    for key, value in _fields(event).items():
        line.setdefault(key if key not in line else f"{key}_", value)
    return json.dumps(line, default=str)


def _fields(event: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in event.items() if key not in _INTERNAL_KEYS}


def _field_text(value: object) -> str:
    """Bare where that can be read back, in quotes where not."""
    text = str(value)
    bare = text != "" and text.isprintable() and not any(character in ' "=' for character in text)
    return text if bare else json.dumps(text, ensure_ascii=not text.replace(" ", "").isprintable())


def _indented(text: str) -> str:
    """A traceback, set off so that no line in it can pass for a log line of its own."""
    return "\n".join(f"    {_one_line(line)}" for line in text.splitlines())


def _one_line(value: object) -> str:
    text = str(value)
    return text if text.isprintable() else json.dumps(text)[1:-1]


def _table(document: Mapping[str, Any], key: str, problems: list[str]) -> dict[str, Any]:
    value = document.get(key, {})
    if isinstance(value, dict):
        return value
    problems.append(f"{key}: must be a table, [{key}]")
    return {}


def _report_unknown(
    table: Mapping[str, Any], known: tuple[str, ...], where: str, problems: list[str]
) -> None:
    problems.extend(
        f"{where}{key}: unknown; the keys are {', '.join(known)}" for key in table if key not in known
    )


def _check_level(value: object, where: str, problems: list[str]) -> None:
    if not isinstance(value, str) or value not in LEVELS:
        problems.append(f"{where}: {value!r} is no level; the levels are {', '.join(LEVELS)}")


def _check_number(value: object, allowed: range, where: str, problems: list[str]) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value not in allowed:
        problems.append(f"{where}: {value!r} is no number from {allowed[0]} to {allowed[-1]}")
