"""What ``doctor`` looks at, one function for each thing; each yields what it found and what to do.

A check looks and changes nothing, but for a file that it writes, syncs and removes again in a data directory.
"""

from __future__ import annotations

import ctypes
import os
import resource
import shutil
import socket
import sys
import time
from contextlib import suppress
from enum import IntEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import attrs

from metaserver.cli.output import count_of, describe_bytes
from metaserver.cli.processes import paths_of
from metaserver.config import apply_slave, load_server_config, load_slave_config
from metaserver.errors import ConfigError
from metaserver.storage.filenames import LOCK_NAME

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from metaserver.cli.installation import Installation
    from metaserver.cli.processes import FoundNode
    from metaserver.config import ServerConfig, SlaveConfig

_CONNECT_SECONDS = 3.0
_SLOW_SYNC_SECONDS = 0.1
_FEW_FREE_PARTS = 0.1
"""A disk with less than this part free is told."""
_RESERVED_DESCRIPTORS = 600
"""Open segments, sockets, threads and libraries beside the connections."""
_AHEAD_SECONDS = 60.0
_CLOCK_UNSYNCHRONISED = 5
"""TIME_ERROR of adjtimex."""
_TIMEX_BYTES = 512
"""More than any architecture's struct timex."""
_NETWORK_FILESYSTEMS = frozenset({"nfs", "nfs4", "cifs", "smb3", "9p", "ceph", "fuse.sshfs", "glusterfs"})
_MEMORY_FILESYSTEMS = frozenset({"tmpfs", "ramfs"})
_LOOPBACK = ("127.", "localhost", "[::1]", "::1")


class Level(IntEnum):
    """How bad it is."""

    OK = 0
    WARNING = 1
    PROBLEM = 2


class Finding(NamedTuple):
    """One thing that was looked at."""

    level: Level
    subject: str
    text: str
    advice: str = ""


@attrs.frozen
class Patient:
    """What is examined."""

    installation: Installation
    config: ServerConfig
    slave_config: SlaveConfig | None
    node: FoundNode

    @property
    def status(self) -> dict[str, Any]:
        """What the node says of itself; empty where it is not running."""
        return self.node.status or {}


def examine_configuration(
    installation: Installation,
) -> tuple[list[Finding], ServerConfig | None, SlaveConfig | None]:
    """The files, and what they hold as far as they can be used."""
    findings: list[Finding] = []
    slave_config = None
    config = None
    try:
        config = load_server_config(installation.server_file)
        findings.append(Finding(Level.OK, "configuration", f"{installation.server_file} has no problems"))
    except ConfigError as error:
        findings += [
            Finding(Level.PROBLEM, "configuration", problem, "correct the file") for problem in error.problems
        ]
        with suppress(ConfigError):
            config = load_server_config(installation.server_file, lenient=True)
    if installation.slave_file is not None:
        try:
            slave_config = load_slave_config(installation.slave_file)
            findings.append(Finding(Level.OK, "configuration", f"{installation.slave_file} has no problems"))
        except ConfigError as error:
            findings += [
                Finding(Level.PROBLEM, "configuration", problem, "correct the file")
                for problem in error.problems
            ]
            config = None
        if config is not None and slave_config is not None:
            config = apply_slave(config, slave_config)
    return findings, config, slave_config


def check_process(patient: Patient) -> Iterator[Finding]:
    """Does it run, and what does it complain of itself."""
    node, role = patient.node, patient.installation.role
    if not node.is_running:
        stale = "" if node.stale_pid is None else f"; the pid file of pid {node.stale_pid} is stale"
        yield Finding(
            Level.WARNING,
            "process",
            f"the {role} is not running{stale}",
            f"metaServer start{patient.installation.verb_suffix}",
        )
        return
    if node.status is None:
        log = paths_of(patient.installation).log_file
        yield Finding(
            Level.PROBLEM, "process", f"the {role} (pid {node.pid}) does not answer", f"look into {log}"
        )
        return
    yield Finding(Level.OK, "process", f"the {role} runs at {node.status['address']} (pid {node.pid})")
    for problem in node.status["problems"]:
        yield Finding(Level.PROBLEM, "process", problem, "see `metaServer status` and the log")
    if folders := node.status["quarantine"]["folders"]:
        yield Finding(
            Level.WARNING,
            "quarantine",
            f"{count_of(folders, 'folder')} of messages that this node had to give up",
            "metaServer quarantine list",
        )


def check_permissions(patient: Patient) -> Iterator[Finding]:
    """May this user write where the node has to."""
    places = [*patient.config.data_paths, paths_of(patient.installation).logs_directory]
    for place in dict.fromkeys(places):
        existing = next(parent for parent in (place, *place.parents) if parent.exists())
        if not os.access(existing, os.R_OK | os.W_OK | os.X_OK):
            yield Finding(
                Level.PROBLEM,
                "permissions",
                f"user {_user()} may not write to {existing}",
                f"chown or chmod {existing}, or run as the user whom it belongs to",
            )
        elif existing == place:
            yield from _foreign_files(place)
    if not os.access(patient.installation.server_file.parent, os.W_OK):
        yield Finding(
            Level.WARNING,
            "permissions",
            f"{patient.installation.server_file.parent} cannot be written: `topics create` and "
            "autoSyncMasterConfig change the file there",
            "allow it, or change server.ini by hand",
        )


def _foreign_files(place: Path) -> Iterator[Finding]:
    foreign = [entry for entry in place.iterdir() if not os.access(entry, os.W_OK) and not entry.is_symlink()]
    if foreign:
        yield Finding(
            Level.PROBLEM,
            "permissions",
            f"{count_of(len(foreign), 'file')} in {place} cannot be written by user {_user()}, the first is "
            f"{foreign[0].name}",
            f"chown -R them, or run as the user whom they belong to (uid {foreign[0].stat().st_uid})",
        )
    else:
        yield Finding(Level.OK, "permissions", f"{place} can be written")


def check_disk(patient: Patient) -> Iterator[Finding]:
    """Room, kind of filesystem, and how long it takes to be safe."""
    for path in patient.config.data_paths:
        existing = next(parent for parent in (path, *path.parents) if parent.exists())
        usage, nodes = shutil.disk_usage(existing), os.statvfs(existing)
        free = f"{describe_bytes(usage.free)} of {describe_bytes(usage.total)} are free in {existing}"
        minimum = patient.config.min_free_disk_bytes
        if usage.free <= minimum:
            advice = f"make room, or lower minFreeDiskBytes ({minimum}): puts are refused"
            yield Finding(Level.PROBLEM, "disk", free, advice)
        elif usage.free < max(2 * minimum, _FEW_FREE_PARTS * usage.total):
            yield Finding(Level.WARNING, "disk", free, "make room, or shorten deletePolicy")
        else:
            yield Finding(Level.OK, "disk", free)
        if nodes.f_files and nodes.f_favail < 1000:
            text = f"only {nodes.f_favail} more files can be made in {existing}"
            yield Finding(Level.PROBLEM, "disk", text, "each partition needs some: remove others")
        yield from _check_filesystem(existing)
        if path.is_dir() and os.access(path, os.W_OK):
            yield _time_sync(path)


def _check_filesystem(path: Path) -> Iterator[Finding]:
    kind, options = filesystem_of(path, Path("/proc/self/mounts").read_text(encoding="utf-8"))
    if "ro" in options:
        yield Finding(Level.PROBLEM, "disk", f"{path} is mounted read-only", "mount it for writing")
    if kind in _NETWORK_FILESYSTEMS:
        text = f"{path} is on {kind}: locks and syncs depend on a network and another machine"
        yield Finding(Level.WARNING, "disk", text, "use a disk of this machine, and a slave on another")
    elif kind in _MEMORY_FILESYSTEMS:
        text = f"{path} is on {kind}: a reboot loses everything"
        yield Finding(Level.WARNING, "disk", text, "use a disk, unless messages may be lost")
    else:
        yield Finding(Level.OK, "disk", f"{path} is on {kind}")


def filesystem_of(path: Path, mounts: str) -> tuple[str, list[str]]:
    """Its kind and options, from the text of /proc/mounts."""
    best, found = -1, ("unknown", list[str]())
    target = str(path.resolve())
    for line in mounts.splitlines():
        _, point, kind, options, *_ = line.split(" ")
        point = point.replace("\\040", " ")
        is_below = target == point or target.startswith(point.rstrip("/") + "/")
        if is_below and len(point) >= best:
            best, found = len(point), (kind, options.split(","))
    return found


def _time_sync(path: Path) -> Finding:
    probe = path / f".doctor-{os.getpid()}"
    try:
        descriptor = os.open(probe, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            os.write(descriptor, bytes(4096))
            started = time.perf_counter()
            os.fdatasync(descriptor)
            seconds = time.perf_counter() - started
        finally:
            os.close(descriptor)
            probe.unlink()
    except OSError as error:
        text = f"{path} takes no file: {error.strerror or error}"
        return Finding(Level.PROBLEM, "disk", text, "see to the disk: dmesg tells more")
    text = f"a sync in {path} takes {seconds * 1000:.1f} ms"
    if seconds > _SLOW_SYNC_SECONDS:
        return Finding(Level.WARNING, "disk", text, "every put waits for one: look what else uses the disk")
    return Finding(Level.OK, "disk", text)


def check_descriptors(patient: Patient) -> Iterator[Finding]:
    """How many files may be open, of the node where it runs, else of this shell."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    opened = None
    if patient.node.pid is not None:
        with suppress(OSError, ValueError):
            soft, hard = resource.prlimit(patient.node.pid, resource.RLIMIT_NOFILE)
            opened = len(list(Path(f"/proc/{patient.node.pid}/fd").iterdir()))
    wanted = patient.config.max_connections + _RESERVED_DESCRIPTORS
    limit = "unlimited" if soft == resource.RLIM_INFINITY else f"{soft:,}"
    used = "" if opened is None else f", {opened:,} are"
    text = f"{limit} files may be open{used}; maxConnections needs up to {wanted:,}"
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        yield Finding(Level.OK, "descriptors", text)
    else:
        raised = "ulimit -n" if hard == resource.RLIM_INFINITY or hard >= wanted else "limits.conf, ulimit -n"
        advice = f"{raised} {wanted} before the start (LimitNOFILE= in systemd), or lower maxConnections"
        is_short = opened is not None and opened > soft * 0.9
        yield Finding(Level.PROBLEM if is_short else Level.WARNING, "descriptors", text, advice)


def check_clock(patient: Patient) -> Iterator[Finding]:
    """Is it kept by somebody, and is it behind what was written."""
    state = clock_state()
    if state == _CLOCK_UNSYNCHRONISED:
        yield Finding(
            Level.WARNING,
            "clock",
            "the kernel says that nobody keeps the clock in step",
            "run chrony, ntpd or systemd-timesyncd: message ids carry the time, and lag in seconds is by it",
        )
    elif state is not None:
        yield Finding(Level.OK, "clock", "the clock is kept in step")
    newest = max(
        (
            segment.stat().st_mtime
            for path in patient.config.data_paths
            if os.access(path, os.R_OK | os.X_OK)
            for segment in path.glob("*/*.meta")
        ),
        default=0.0,
    )
    if newest > time.time() + _AHEAD_SECONDS:
        text = f"a segment was written {newest - time.time():,.0f} s in the future: the clock was set back"
        yield Finding(Level.WARNING, "clock", text, "set the clock; ids go on from the highest in any case")


def clock_state() -> int | None:
    """What adjtimex says; None where it is not to be had."""
    try:
        found: int = ctypes.CDLL(None, use_errno=True).adjtimex(ctypes.create_string_buffer(_TIMEX_BYTES))
    except (AttributeError, OSError):
        return None
    return None if found < 0 else found


def check_ports(patient: Patient) -> Iterator[Finding]:
    """Can they be had, where the node does not run; does it answer, where it does."""
    config = patient.config
    ports = [("serverPort", config.server_port), ("dashboardHttpPort", config.dashboard_http_port)]
    if config.zookeeper.is_embedded and patient.slave_config is None:
        ports.append(("registryPort", config.zookeeper.registry_port))
    if patient.node.is_running:
        address = str(patient.status.get("address", ""))
        if address:
            problem = _connect_problem(address)
            if problem is None:
                yield Finding(Level.OK, "ports", f"{address}, which clients are told, answers")
            else:
                text = f"{address}, which clients are told, cannot be reached from here: {problem}"
                yield Finding(Level.PROBLEM, "ports", text, "set hostName, and look at the firewall")
    else:
        for key, port in ports:
            yield from _check_free(config.bind_address, key, port)
    exposed = config.bind_address not in ("127.0.0.1", "::1", "localhost")
    host = config.host_name or ""
    if exposed and host.startswith(_LOOPBACK):
        text = f"hostName {host} is told to clients on other machines, and leads them to themselves"
        yield Finding(Level.PROBLEM, "ports", text, "set hostName to a name of this machine")
    if host and not exposed and not host.startswith(_LOOPBACK):
        text = f"clients are told {host}, and bindAddress {config.bind_address} answers only on this machine"
        yield Finding(Level.WARNING, "ports", text, "set bindAddress=0.0.0.0, or no hostName")


def _check_free(bind_address: str, key: str, port: int) -> Iterator[Finding]:
    if not port:
        return
    family = socket.AF_INET6 if ":" in bind_address else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((bind_address, port))
        except OSError as error:
            text = f"{key} {port} on {bind_address} cannot be had: {error.strerror}"
            yield Finding(
                Level.PROBLEM, "ports", text, f"stop what uses it (ss -ltnp), or choose another {key}"
            )
        else:
            yield Finding(Level.OK, "ports", f"{key} {port} on {bind_address} is free")


def _connect_problem(address: str) -> str | None:
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=_CONNECT_SECONDS):
            return None
    except (OSError, ValueError) as error:
        return str(getattr(error, "strerror", None) or error)


def check_data(patient: Patient) -> Iterator[Finding]:
    """Does somebody else have the data directory."""
    if patient.node.is_running:
        return
    for path in patient.config.data_paths:
        lock = path / LOCK_NAME
        if lock.is_file() and is_locked(lock):
            owner = lock.read_text(encoding="utf-8", errors="replace").strip()
            text = f"{path} is in use by {owner or 'somebody'}"
            yield Finding(Level.PROBLEM, "data", text, "stop that node, or choose another dataPath")


def is_locked(lock: Path) -> bool:
    """Whether a broker holds the lock file."""
    import fcntl

    with lock.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def check_registry(patient: Patient) -> Iterator[Finding]:
    """ZooKeeper, as the node sees it, or as far as a connection tells."""
    ensemble = patient.config.zookeeper.ensemble
    found = patient.status.get("registry")
    if found is not None:
        where = f"registry {found['servers']}"
        if found["registered"]:
            yield Finding(
                Level.OK, "registry", f"registered in {where}, {count_of(found['topics'], 'topic')}"
            )
        else:
            yield Finding(
                Level.PROBLEM,
                "registry",
                f"not registered in {where}: {found['problem'] or 'no answer yet'}",
                "start ZooKeeper, or correct zk.zkConnect",
            )
        return
    if ensemble is None:
        return
    servers = ensemble.partition("/")[0].split(",")
    problems = {server: _connect_problem(server if ":" in server else f"{server}:2181") for server in servers}
    silent = [f"{server} ({problem})" for server, problem in problems.items() if problem is not None]
    if not silent:
        yield Finding(Level.OK, "registry", f"ZooKeeper {ensemble} answers")
    else:
        is_lost = 2 * len(silent) >= len(servers)
        text = f"of ZooKeeper {ensemble} do not answer: {', '.join(silent)}"
        advice = "start them, or correct zk.zkConnect"
        yield Finding(Level.PROBLEM if is_lost else Level.WARNING, "registry", text, advice)


def check_peers(patient: Patient) -> Iterator[Finding]:
    """A slave's master; a master's slaves."""
    status = patient.status
    if (replication := status.get("replication")) is not None:
        lag = describe_bytes(replication["lag_bytes"])
        if replication["connected"] and not replication["stopped"]:
            text = f"connected to the master {replication['master']}, {lag} behind"
            yield Finding(Level.OK, "peers", text)
        if replication["stopped"]:
            text = f"{count_of(replication['stopped'], 'partition')} no longer follow the master"
            yield Finding(Level.PROBLEM, "peers", text, "metaServer slave-status says why")
    elif not patient.node.is_running and patient.slave_config is not None:
        master = patient.slave_config.master_address
        if master is not None and (problem := _connect_problem(f"{master[0]}:{master[1]}")) is not None:
            text = f"the master {master[0]}:{master[1]} does not answer: {problem}"
            yield Finding(Level.WARNING, "peers", text, "start it, or correct masterAddress")
    for slave in status.get("registered_slaves", ()):
        text = f"slave {slave['slave_id']} at {slave['address']}"
        if (problem := _connect_problem(slave["address"])) is not None:
            yield Finding(Level.PROBLEM, "peers", f"{text} does not answer: {problem}", "see to that machine")
        elif slave["drift"]:
            advice = "autoSyncMasterConfig=true there, or copy server.ini"
            yield Finding(Level.WARNING, "peers", f"{text} has another configuration", advice)
        else:
            yield Finding(Level.OK, "peers", f"{text} answers")


def check_python(_patient: Patient) -> Iterator[Finding]:
    """What it runs on."""
    version = ".".join(map(str, sys.version_info[:3]))
    yield Finding(Level.OK, "installation", f"Python {version} in {sys.prefix}")
    if not sys.platform.startswith("linux"):
        text = f"this is {sys.platform}: nothing is tested there"
        yield Finding(Level.WARNING, "installation", text, "use Linux")


CHECKS: tuple[Callable[[Patient], Iterator[Finding]], ...] = (
    check_python,
    check_process,
    check_permissions,
    check_data,
    check_disk,
    check_descriptors,
    check_clock,
    check_ports,
    check_registry,
    check_peers,
)
"""In the order in which they are told."""


def _user() -> str:
    import pwd

    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return str(os.geteuid())
