"""Java clients in a process of their own, steered line by line (java/GroupMember.java).

One process hosts any number of clients, each under a name. A test starts its own process where it kills it;
else it shares one, because a JVM takes a second to start.
"""

from __future__ import annotations

import itertools
import signal
import subprocess
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import quote, unquote_plus

import attrs

from tests.interop.original import java_command
from tests.support import WAIT_SECONDS_MAX, eventually

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from pathlib import Path

SESSION_MS = 3000
SYNC_MS = 500
DELIVERY_SECONDS_MAX = 90.0
"""Rebalances, sessions that expire and connections made again take a few seconds; beyond it something hangs."""
ANSWER_SECONDS_MAX = 90.0
"""The Java client gives a broker that is not there up to ten seconds, some of them twice."""


class JavaError(Exception):
    """The Java client raised this."""

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(f"{kind}: {text}")
        self.kind = kind
        self.text = text


class RefusedError(Exception):
    """The Java client returned a result without success."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text


class Delivery(NamedTuple):
    """A message as a Java listener, or a Java iterator, has it."""

    topic: str
    partition: str
    """As ``B-P``."""
    message_id: int
    attribute: str | None
    length: int
    checksum: int
    body: str
    """Its beginning, where it is long."""
    end: int
    """The offset behind it; -1 where the client does not tell. Of a read by hand: from where the read began."""


class Sent(NamedTuple):
    """What the Java producer knows of a message that was accepted."""

    message_id: int
    partition: str
    offset: int


class Produced(NamedTuple):
    """One of a numbered series."""

    number: int
    sent: Sent | None
    problem: str
    """Why it was not accepted, or whether that is not known; blank where it was."""


def in_time(condition: Callable[[], bool], what: str) -> None:
    """Look until the Java clients have come that far, also where the machine is busy."""
    eventually(condition, what, seconds=DELIVERY_SECONDS_MAX)


def body(prefix: str, number: int, size: int = 0) -> bytes:
    """The body that the Java side gives to a message of a series."""
    words = f"{prefix}-{number} ".encode()
    return (words * (size // len(words) + 1))[:size] if size else words[:-1]


def _delivery(words: list[str]) -> Delivery:
    topic, partition, message_id, attribute, length, checksum, text, end = words
    return Delivery(
        unquote_plus(topic),
        partition,
        int(message_id),
        None if attribute == "-" else unquote_plus(attribute[1:]),
        int(length),
        int(checksum),
        unquote_plus(text[1:]),
        int(end),
    )


def _produced(words: list[str]) -> Produced:
    number, kind, *rest = words
    if kind == "success":
        return Produced(int(number), Sent(int(rest[0]), rest[1], int(rest[2])), "")
    return Produced(int(number), None, " ".join([kind, *map(unquote_plus, rest)]))


@attrs.define(eq=False)
class JavaMember:
    """The process. Nothing here waits without a bound."""

    directory: Path
    classpath: str
    connect: str = "127.0.0.1:1"
    """Where its factories find ZooKeeper, unless they are told otherwise."""
    root: str = "/meta"
    session_ms: int = SESSION_MS
    _process: subprocess.Popen[str] | None = None
    _reader: threading.Thread | None = None
    _lock: threading.Lock = attrs.Factory(threading.Lock)
    _tags: itertools.count[int] = attrs.Factory(lambda: itertools.count(1))
    _answers: dict[str, list[str]] = attrs.Factory(dict)
    _events: dict[tuple[str, str], list[list[str]]] = attrs.Factory(dict)
    """By kind and client."""
    _said: list[str] = attrs.Factory(list)

    # The process.

    def start(self) -> None:
        """Returns when it takes commands."""
        self.directory.mkdir(parents=True, exist_ok=True)
        arguments = (self.connect, self.root, str(self.session_ms), str(SYNC_MS))
        command = java_command(self.classpath, self.directory, "GroupMember", *arguments)
        # What clients keep on disk lies in the user's home directory, unless Java believes it is here.
        command.insert(1, f"-Duser.home={self.directory}")
        with (self.directory / "output").open("ab") as log:
            self._process = subprocess.Popen(
                command,
                cwd=self.directory,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                encoding="utf-8",
            )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self._eventually(lambda: "ready" in self._said, "the start of the Java clients")

    @property
    def log(self) -> str:
        """What the Java clients log."""
        return (self.directory / "output").read_text(encoding="utf-8", errors="replace")

    def stop(self) -> None:
        """Close all clients, last made first, and end; returns when the process has ended."""
        self._write("0 stop")
        assert self._process is not None
        assert self._process.wait(ANSWER_SECONDS_MAX) == 0, self.log[-4000:]
        self._join()
        assert self._said[-1] == "end"

    def kill(self) -> None:
        """SIGKILL: sessions and connections are left to whoever notices."""
        assert self._process is not None
        self._process.kill()
        self._process.wait(WAIT_SECONDS_MAX)
        self._join()

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """It keeps its connections and says nothing."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self._process.send_signal(signal.SIGCONT)

    def make_sure_it_is_gone(self) -> None:
        """For the end, whatever has happened."""
        if self._process is not None and self._process.poll() is None:
            self.kill()

    # Clients.

    def factory(
        self,
        name: str,
        *,
        kind: str = "plain",
        connect: str | None = None,
        root: str | None = None,
        layout: Mapping[str, str] | None = None,
    ) -> None:
        """A session factory: ``plain``, ``ordered`` (with a layout by topic), ``extended`` or ``oneway``."""
        topics = {f"topic.num.{topic}": value for topic, value in (layout or {}).items()}
        self.ask(
            "factory", name, kind=kind, connect=connect or self.connect, root=root or self.root, **topics
        )

    def producer(self, name: str, factory: str, *topics: str) -> None:
        """A producer that takes partitions in turn, with these topics published."""
        self.ask("producer", name, factory=factory)
        for topic in topics:
            self.ask("publish", name, topic=topic)

    def send(
        self,
        name: str,
        topic: str,
        data: str,
        *,
        attribute: str | None = None,
        is_callback: bool = False,
    ) -> Sent:
        """One message; raises RefusedError for a broker's refusal and JavaError for an exception."""
        options = {} if attribute is None else {"attribute": attribute}
        options |= {"callback": "yes"} if is_callback else {}
        kind, *words = self.ask("send", name, topic=topic, body=data, **options)
        if kind == "refused":
            raise RefusedError(" ".join(map(unquote_plus, words)))
        return Sent(int(words[0]), words[1], int(words[2]))

    def send_one_way(self, name: str, topic: str, data: str) -> None:
        """One message of a producer of a factory ``oneway``; nobody learns what becomes of it."""
        self.ask("oneway", name, topic=topic, body=data)

    def produce(
        self,
        name: str,
        topic: str,
        count: int,
        *,
        prefix: str = "message",
        first: int = 0,
        size: int = 0,
        attribute: str | None = None,
    ) -> list[Sent]:
        """Numbered messages (see :func:`body`), one after the other; all must be accepted."""
        options: dict[str, object] = {} if attribute is None else {"attribute": attribute}
        before = len(self.produced(name))
        options |= {"prefix": prefix, "count": count, "size": size, "first": first}
        self.ask("produce", name, topic=topic, **options)
        found = self.produced(name)[before:]
        assert not [one for one in found if one.sent is None], found
        return [one.sent for one in found if one.sent is not None]

    def produce_through(self, name: str, topic: str, count: int) -> list[Sent]:
        """Until so many are accepted, while brokers come and go; returns those.

        The client closes all its connections and makes them again whenever a broker or a slave comes or
        goes. What it sends meanwhile is refused by itself, or stored without its knowing.
        """
        accepted: list[Sent] = []

        def send() -> bool:
            try:
                accepted.append(self.send(name, topic, f"through-{next(self._tags)}"))
            except (JavaError, RefusedError):
                return False
            return len(accepted) == count

        in_time(send, f"{count} messages that are accepted")
        return accepted

    def begin_producing(self, name: str, topic: str, *, prefix: str = "message", pause_ms: int = 2) -> str:
        """The same in the background until :meth:`halt`, whatever happens to single messages."""
        return self.tell("produce", name, topic=topic, prefix=prefix, pause=pause_ms)

    def halt(self, name: str, tag: str) -> list[Produced]:
        """All that was tried since."""
        self.ask("halt", name)
        self.answer(tag)
        return self.produced(name)

    def produced(self, name: str) -> list[Produced]:
        """All numbered messages of this producer so far, in their order."""
        return [_produced(words) for words in self.events("produced", name)]

    def consume(self, name: str, factory: str, group: str, *topics: str, **options: object) -> None:
        """A consumer of these topics; returns when its subscription is complete.

        Options: ``id`` of the consumer, ``size`` of a fetch, ``delay`` at most between fetches, ``commit`` period,
        fetch ``threads``, ``retries``, ``max`` = ``once`` or ``always``; the listener's ``fail`` = ``throw`` or
        ``rollback`` for the first ``times`` deliveries of a message whose body begins with ``only``, ``hold`` until
        :meth:`release`, ``rollbackAt`` and ``ackAt`` in deliveries, ``filter`` by the body's beginning, and
        ``filterFails`` by it, ``reject`` to tell of rejected messages, ``broadcast``.
        """
        self.ask(
            "consume", name, factory=factory, group=group, topics=",".join(map(quote, topics)), **options
        )

    def release(self, name: str) -> None:
        """Let a listener that holds go on."""
        self.ask("release", name)

    def received(self, name: str) -> list[Delivery]:
        """What the listener of this consumer has had so far, in its order."""
        return [_delivery(words) for words in self.events("received", name)]

    def rejected(self, name: str) -> list[Delivery]:
        """What went to the reject handler of this consumer."""
        return [_delivery(words) for words in self.events("rejected", name)]

    def wait_received(self, names: Iterable[str] | str, count: int) -> list[Delivery]:
        """When these consumers together have had so many, or more: all of them."""
        each = [names] if isinstance(names, str) else list(names)
        self._eventually(
            lambda: sum(len(self.events("received", name)) for name in each) >= count,
            f"{count} messages for {', '.join(each)}",
        )
        return [delivery for name in each for delivery in self.received(name)]

    def read(
        self, name: str, topic: str, partition: str, offset: int, size: int = 1 << 20
    ) -> list[Delivery] | None:
        """Read by hand with a consumer; None where the client says that there is nothing."""
        before = len(self.events("read", name))
        (count,) = self.ask("get", name, topic=topic, partition=partition, offset=offset, size=size)
        return (
            None if count == "nothing" else [_delivery(words) for words in self.events("read", name)[before:]]
        )

    def browse(self, factory: str, topic: str) -> list[Delivery]:
        """All that a topic browser finds."""
        name = f"browser-{next(self._tags)}"
        self.ask("browse", name, factory=factory, topic=topic)
        return [_delivery(words) for words in self.events("read", name)]

    def partitions(self, factory: str, topic: str) -> list[str]:
        """The partitions of a topic that a factory finds, as ``B-P``."""
        (words,) = self.ask("partitions", factory, topic=topic)
        return [word for word in words.strip("[]").split(",") if word]

    def close(self, name: str) -> None:
        """Shut down a producer, a consumer or a factory, cleanly."""
        self.ask("close", name)

    def clients(self) -> list[str]:
        """The names of all that is open."""
        return self.ask("status", "all")

    # Lines.

    def ask(self, verb: str, name: str, **options: object) -> list[str]:
        """The words of the answer; raises JavaError."""
        return self.answer(self.tell(verb, name, **options))

    def tell(self, verb: str, name: str, **options: object) -> str:
        """Does not wait; the tag is for :meth:`answer`."""
        tag = str(next(self._tags))
        words = [f"{key}={quote(str(value), safe='')}" for key, value in options.items() if value is not None]
        self._write(" ".join([tag, verb, name, *words]))
        return tag

    def answer(self, tag: str) -> list[str]:
        """Wait for the answer to what was told; raises JavaError."""
        self._eventually(lambda: tag in self._answers, f"the answer to {tag}")
        outcome, *words = self._answers[tag]
        if outcome == "error":
            raise JavaError(words[0], unquote_plus(" ".join(words[1:])))
        return words

    def events(self, kind: str, name: str) -> list[list[str]]:
        """What was told of a client, in words."""
        with self._lock:
            return list(self._events.get((kind, name), ()))

    def _write(self, line: str) -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.write(f"{line}\n")
        self._process.stdin.flush()

    def _read(self) -> None:
        assert self._process is not None
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if not line.startswith("> "):
                continue
            kind, *words = line[2:].split()
            with self._lock:
                if kind == "answer":
                    self._answers[words[0]] = words[1:]
                elif words:
                    self._events.setdefault((kind, words[0]), []).append(words[1:])
                else:
                    self._said.append(kind)

    def _join(self) -> None:
        """What it said before its end has been read."""
        assert self._process is not None
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        assert self._reader is not None
        self._reader.join(WAIT_SECONDS_MAX)
        self._process.stdin.close()
        self._process.stdout.close()

    def _eventually(
        self, condition: Callable[[], bool], what: str, *, seconds: float = DELIVERY_SECONDS_MAX
    ) -> None:
        process = self._process
        assert process is not None

        def look() -> bool:
            is_so = condition()
            assert is_so or process.poll() is None, (
                f"the Java clients ended before {what}:\n{self.log[-4000:]}"
            )
            return is_so

        try:
            eventually(look, what, seconds=seconds)
        except AssertionError as error:
            error.add_note(f"the Java clients in {self.directory} logged last:\n{self.log[-6000:]}")
            raise
