"""Exit codes: documented in docs/command-line.md and in ``metaServer help``, never renumbered."""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """What the shell sees."""

    OK = 0
    FAILED = 1
    """What was asked for could not be done; standard error says why."""
    USAGE = 2
    """Unknown verb, option or argument."""
    NOT_RUNNING = 3
    ALREADY_RUNNING = 4
    CONFIGURATION = 5
    """A configuration file has problems."""
    DAMAGE = 6
    """``verify`` or ``dump-log`` found bytes that are no messages."""
    UNREACHABLE = 7
    """No broker, or no registry, answers at the address."""
    NOT_ACKNOWLEDGED = 8
    """``produce``, the ``replay`` of dead letters and quarantine: a message was not acknowledged."""
    TIMEOUT = 9
    """A node did not become ready, or did not end, in time."""
    DIFFERENT = 10
    """``compare``: the replicas differ."""
    UNHEALTHY = 11
    """``doctor``: something must be done."""
    INTERRUPTED = 130
    """Control-C."""


MEANINGS = {
    ExitCode.OK: "done",
    ExitCode.FAILED: "could not be done; standard error says why",
    ExitCode.USAGE: "unknown verb, option or argument",
    ExitCode.NOT_RUNNING: "the broker is not running",
    ExitCode.ALREADY_RUNNING: "the broker is running already",
    ExitCode.CONFIGURATION: "a configuration file has problems",
    ExitCode.DAMAGE: "verify, dump-log: the log is damaged",
    ExitCode.UNREACHABLE: "no broker, or no registry, answers at the address",
    ExitCode.NOT_ACKNOWLEDGED: "produce, replay: not every message was acknowledged",
    ExitCode.TIMEOUT: "not ready, or not ended, in time",
    ExitCode.DIFFERENT: "compare: the replicas differ",
    ExitCode.UNHEALTHY: "doctor: something must be done",
    ExitCode.INTERRUPTED: "interrupted with Control-C",
}
"""For ``metaServer help``."""
