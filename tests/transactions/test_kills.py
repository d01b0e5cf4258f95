"""SIGKILL under load, over three partitions: every transaction is there as a whole, once, or not at all."""

from __future__ import annotations

import os
import threading
from random import Random
from typing import TYPE_CHECKING

import attrs
import pytest

from tests.support import (
    NO_REGISTRY,
    BrokerProcess,
    ConnectionEndedError,
    Reply,
    Wire,
    checksum,
    eventually,
    put,
)

if TYPE_CHECKING:
    from pathlib import Path

IS_LONG = bool(os.environ.get("METASERVER_LONG"))
KILLS = 200 if IS_LONG else 6
CLIENTS = 4
TOPIC = "orders"
PARTITIONS = range(3)
ANSWERS_BEFORE_KILL = (1, 60)


@attrs.define
class Fate:
    """What one transaction asked for last, and what it was told."""

    key: str
    asked: str = "BEGIN"
    answered: str = ""


@attrs.define(eq=False)
class Load:
    """Clients in threads: local transactions, branches in one and two phases, rollbacks, plain puts."""

    seed: int
    fates: dict[str, Fate] = attrs.Factory(dict)
    plain: set[bytes] = attrs.Factory(set)
    """Acknowledged puts without a transaction."""
    problems: list[str] = attrs.Factory(list)
    answers: int = 0
    """About how many."""
    _number: int = 0
    _lock: threading.Lock = attrs.Factory(threading.Lock)

    def start(self, port: int) -> list[threading.Thread]:
        threads = [
            threading.Thread(target=self._run, args=(port, Random(f"{self.seed} {self._number} {client}")))
            for client in range(CLIENTS)
        ]
        for thread in threads:
            thread.start()
        return threads

    def wait_for_answers(self, wanted: int) -> None:
        eventually(lambda: self.answers >= wanted or bool(self.problems), f"{wanted} answers")

    def _run(self, port: int, random: Random) -> None:
        try:
            with Wire(port) as wire:
                while True:
                    self._one(wire, random)
        except (ConnectionEndedError, OSError):
            return  # It was killed.
        except BaseException as error:  # noqa: BLE001 - told by the test's own thread
            self.problems.append(repr(error))

    def _one(self, wire: Wire, random: Random) -> None:
        with self._lock:
            self._number += 1
            number = self._number
        if random.random() < 0.3:
            body = b"plain-%d" % number
            if wire.ask(put(TOPIC, body, number, random.choice(PARTITIONS))).status == 200:
                self.plain.add(body)
            return
        is_local = random.random() < 0.4
        fate = Fate(f"TX:s-{number}:1" if is_local else f"XID:1:{number:08x}::q")
        self.fates[fate.key] = fate
        self._do(wire, fate, "BEGIN")
        for partition in PARTITIONS:
            for part in range(2):
                body = f"{fate.key} {partition} {part} ".encode() * random.choice((1, 100, 1000))
                reply = wire.ask(transactional_put(body, partition, fate.key, number))
                assert reply.status == 200, reply
        if is_local or random.random() < 0.3:
            self._do(wire, fate, random.choice(("COMMIT_ONE_PHASE", "COMMIT_ONE_PHASE", "ROLLBACK")))
            return
        self._do(wire, fate, "PREPARE")
        if random.random() < 0.9:
            self._do(wire, fate, random.choice(("COMMIT_TWO_PHASE", "COMMIT_TWO_PHASE", "ROLLBACK")))

    def _do(self, wire: Wire, fate: Fate, action: str) -> None:
        fate.asked = action
        reply: Reply = wire.ask(f"transaction {fate.key} null {action} 7\r\n".encode())
        assert reply.status == 200, (fate, reply)
        fate.answered = action
        self.answers += 1


def transactional_put(body: bytes, partition: int, key: str, opaque: int) -> bytes:
    head = f"put {TOPIC} {partition} {len(body)} 0 {checksum(body)} {key} {opaque}\r\n"
    return head.encode() + body


def check(broker: BrokerProcess, load: Load) -> set[str]:
    """The keys that are prepared; fails where anything is there in part, twice, or not at all."""
    text = broker.ask(b"transaction null null RECOVER 1\r\n").text
    prepared = set(text.split("\r\n")) if text else set()
    seen: dict[str, list[tuple[int, str]]] = {}
    plain: list[bytes] = []
    for partition in PARTITIONS:
        for record in broker.read_all(TOPIC, partition):
            if record.data.startswith(b"plain-"):
                plain.append(record.data)
            else:
                key, number, part = record.data.decode().split(" ")[:3]
                assert int(number) == partition
                seen.setdefault(key, []).append((partition, part))
    assert len(plain) == len(set(plain))
    assert load.plain <= set(plain), "an acknowledged put is gone"
    everything = [(partition, part) for partition in PARTITIONS for part in ("0", "1")]
    assert set(seen) <= set(load.fates)
    for fate in load.fates.values():
        found = seen.get(fate.key, [])
        assert found in ([], everything), f"{fate} is there in part, or twice: {found}"
        is_prepared = fate.key in prepared
        assert not (found and is_prepared), f"{fate} could be committed twice"
        if fate.answered.startswith("COMMIT"):
            assert found, f"{fate} is gone"
        elif fate.answered == "ROLLBACK" or fate.asked in ("BEGIN", "ROLLBACK"):
            assert not found, fate
            assert fate.answered != "ROLLBACK" or not is_prepared, fate
        elif fate.answered == "PREPARE":
            assert is_prepared or fate.asked != "PREPARE", f"{fate} is forgotten"
            assert is_prepared or found, f"{fate} is forgotten"
        elif fate.asked == "PREPARE":
            assert not found, fate
    return prepared


@pytest.mark.parametrize(
    ("threshold", "flush"), [(0, 1), (1000, 1), (1000, 2)], ids=["disk", "memory", "every second"]
)
def test_kills(threshold: int, flush: int, tmp_path: Path) -> None:
    settings: dict[str, object] = {
        "numPartitions": 3,
        "unflushThreshold": threshold,
        "flushTxLogAtCommit": flush,
        "maxSegmentSize": 1_000_000,
        "checkpointInterval": 1000,
    }
    broker = BrokerProcess(tmp_path, settings=settings, topics=f"[topic={TOPIC}]\n", registry=NO_REGISTRY)
    load, random = Load(seed=threshold + flush), Random(f"{threshold} {flush}")
    kills = KILLS // 3 + 1
    try:
        broker.start()
        for _ in range(kills):
            threads = load.start(broker.port)
            load.wait_for_answers(load.answers + random.randint(*ANSWERS_BEFORE_KILL))
            broker.kill()
            for thread in threads:
                thread.join()
            assert not load.problems
            broker.start()
            prepared = check(broker, load)
            # A transaction manager that comes back decides some of what it finds.
            with broker.connect() as wire:
                for key in sorted(prepared):
                    if random.random() < 0.5:
                        load._do(wire, load.fates[key], random.choice(("COMMIT_TWO_PHASE", "ROLLBACK")))
            check(broker, load)
        assert sum(fate.answered.startswith("COMMIT") for fate in load.fates.values()) > 0
        assert broker.stop() == 0
        assert "Traceback" not in broker.log
        broker.start()
        check(broker, load)
    finally:
        broker.make_sure_it_is_gone()
