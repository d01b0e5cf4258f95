"""Small networks to be cut and slowed: network namespaces, a cable for each two of them. Root and Linux.

A cable is a pair of virtual interfaces, with faults of its own, so that what is done to the way between
master and slave leaves the way between clients and master as it is. Everything belongs to the namespaces:
when they are gone, so is it.
"""

from __future__ import annotations

import ctypes
import fcntl
import itertools
import os
import shutil
import subprocess
import sys
import tempfile
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import attrs

from tools.torture.filesystems import UnavailableError, run

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_NUMBERS = itertools.count()
_TOOLS = {"ip": "iproute2", "tc": "iproute2", "nft": "nftables"}
_CLONE_NEWNET = 0x40000000


def require_network() -> None:
    """What all of this needs; installs Debian's packages where it may. Raises UnavailableError."""
    if os.geteuid() != 0:
        raise UnavailableError("network namespaces need root")
    missing = sorted({package for tool, package in _TOOLS.items() if shutil.which(tool) is None})
    if missing:
        _install(missing)
    for tool, package in _TOOLS.items():
        if shutil.which(tool) is None:
            raise UnavailableError(f"there is no {tool} here: it is in Debian's package {package}")


def _install(packages: Sequence[str]) -> None:
    if shutil.which("apt-get") is None:
        return
    with (Path(tempfile.gettempdir()) / "metaserver-tests-apt.lock").open("w", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        sys.__stderr__ and sys.__stderr__.write(f"\ninstalling {' '.join(packages)} for the tests\n")
        for command in (["update", "-q"], ["install", "-y", "-q", "--no-install-recommends", *packages]):
            subprocess.run(
                ["apt-get", *command], check=False, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )


@attrs.frozen
class Namespace:
    """A machine with a network of its own, as far as processes in it can tell."""

    name: str

    def command(self, *words: str) -> list[str]:
        """A command that runs in it."""
        return ["ip", "netns", "exec", self.name, *words]

    def run(self, *words: str) -> None:
        """Run a command that must succeed; raises UnavailableError."""
        run(*self.command(*words))

    @contextmanager
    def entered(self) -> Iterator[None]:
        """For this thread: what it connects and listens at meanwhile is in there, and stays so."""
        own = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        other = os.open(f"/run/netns/{self.name}", os.O_RDONLY)
        try:
            _enter(other)
            yield
        finally:
            _enter(own)
            os.close(own)
            os.close(other)


def _enter(descriptor: int) -> None:
    # os.setns begins with Python 3.12.
    if ctypes.CDLL(None, use_errno=True).setns(descriptor, _CLONE_NEWNET) != 0:
        number = ctypes.get_errno()
        raise UnavailableError(f"setns: {os.strerror(number)}")


@attrs.frozen
class CableEnd:
    """Where a cable is plugged in."""

    namespace: Namespace
    interface: str
    address: str

    def rule(self, hook: str, *words: str) -> None:
        """What is dropped of what arrives (``input``) or leaves (``output``) here, beside other rules."""
        table = f"faults_{self.interface}"
        key = "iifname" if hook == "input" else "oifname"
        namespace = self.namespace
        namespace.run("nft", "add", "table", "inet", table)
        chain = f"{{ type filter hook {hook} priority 0 ; policy accept ; }}"
        namespace.run("nft", "add", "chain", "inet", table, hook, chain)
        namespace.run("nft", "add", "rule", "inet", table, hook, key, self.interface, *words, "drop")

    def forget_rules(self) -> None:
        """Nothing is dropped any more."""
        table = f"faults_{self.interface}"
        self.namespace.run("nft", "add", "table", "inet", table)
        self.namespace.run("nft", "delete", "table", "inet", table)


@attrs.define
class Cable:
    """Between two namespaces. Faults stay until :meth:`heal`."""

    left: CableEnd
    right: CableEnd
    _is_limited: bool = False

    @property
    def ends(self) -> tuple[CableEnd, CableEnd]:
        """Both."""
        return self.left, self.right

    def cut(self) -> None:
        """Nothing comes through, and nobody is told."""
        for end in self.ends:
            end.rule("input")

    def cut_towards(self, end: CableEnd) -> None:
        """Nothing arrives at this end; what leaves it still arrives."""
        end.rule("input")

    def lose(self, percent: int) -> None:
        """So much is lost on its way, in both directions, at random."""
        for end in self.ends:
            end.rule("input", "numgen", "random", "mod", "100", "<", str(percent))

    def limit(self, rate: str, queue: str = "200ms") -> None:
        """A rate as tc writes it (``1mbit``), in both directions; more than the queue is lost."""
        for end in self.ends:
            end.namespace.run(
                *("tc", "qdisc", "add", "dev", end.interface, "root", "tbf"),
                *("rate", rate, "burst", "16kb", "latency", queue),
            )
        self._is_limited = True

    def unplug(self, end: CableEnd) -> None:
        """The interface goes down: the peer has vanished without a word."""
        end.namespace.run("ip", "link", "set", end.interface, "down")

    def heal(self) -> None:
        """As new."""
        for end in self.ends:
            end.forget_rules()
            end.namespace.run("ip", "link", "set", end.interface, "up")
            if self._is_limited:
                end.namespace.run("tc", "qdisc", "del", "dev", end.interface, "root")
        self._is_limited = False


@attrs.define
class Network:
    """Namespaces by name, and the cables between them."""

    _stack: ExitStack
    _prefix: str
    namespaces: dict[str, Namespace] = attrs.Factory(dict)
    _cables: int = 0

    def namespace(self, name: str) -> Namespace:
        """The one of this name, made on first use, with a loopback."""
        found = self.namespaces.get(name)
        if found is None:
            found = self.namespaces[name] = Namespace(f"{self._prefix}-{name}")
            run("ip", "netns", "add", found.name)
            self._stack.callback(
                subprocess.run, ["ip", "netns", "del", found.name], check=False, capture_output=True
            )
            found.run("ip", "link", "set", "lo", "up")
        return found

    def connect(self, left: str, right: str) -> Cable:
        """A new cable."""
        number, self._cables = self._cables, self._cables + 1
        ends = [
            CableEnd(self.namespace(name), f"ms{number}{side}", f"10.213.{number}.{host}")
            for name, side, host in ((left, "l", 1), (right, "r", 2))
        ]
        first, second = ends
        first.namespace.run(
            *("ip", "link", "add", first.interface, "type", "veth"),
            *("peer", "name", second.interface, "netns", second.namespace.name),
        )
        for end in ends:
            end.namespace.run("ip", "address", "add", f"{end.address}/30", "dev", end.interface)
            end.namespace.run("ip", "link", "set", end.interface, "up")
        return Cable(first, second)


@contextmanager
def network() -> Iterator[Network]:
    """A network for the time of the block; raises UnavailableError."""
    require_network()
    with ExitStack() as stack:
        yield Network(stack, f"metaserver-{os.getpid()}-{next(_NUMBERS)}")
