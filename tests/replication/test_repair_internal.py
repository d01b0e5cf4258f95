"""Damage in the logs a broker keeps for itself: the journal of transactions, and that of its registry."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import pytest
import trio

from metaserver.client import open_session
from metaserver.message import iterate_records
from tests.replication.test_repair import AT_ONCE, SECONDS_MAX, Pair, make_pair, metaserver, scrub_of
from tools.torture import logfiles
from tools.torture.nodes import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tools.torture.nodes import Node

TRANSACTIONS, REGISTRY = "__transactions-0", "__registry-0"


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    yield from make_pair(tmp_path / "place", AT_ONCE)


def commit(node: Node, payload: bytes) -> None:
    wait_until(lambda: node.ask("status")["registry"]["registered"], SECONDS_MAX, "it takes messages")
    trio.run(commit_one, node, payload)


async def commit_one(node: Node, payload: bytes) -> None:
    async with (
        open_session(f"metaq://127.0.0.1:{node.port}") as session,
        session.producer() as producer,
        producer.transaction() as transaction,
    ):
        await transaction.send("orders", payload)


def has_all(pair: Pair) -> bool:
    """Whether the slave has every byte, also of logs that it has not heard of yet."""
    master, slave = (logfiles.contents(node.data) for node in (pair.place.master, pair.place.slave))
    return master == slave and pair.place.is_well()


def start(pair: Pair) -> None:
    pair.start(count=200)
    for number in range(3):
        commit(pair.place.master, b"committed %d" % number)
    wait_until(lambda: has_all(pair), SECONDS_MAX, "the slave has all of it")


def flip(node: Node, log: str) -> Path:
    """A byte of the first record's data."""
    path: Path = min((node.data / log).glob("*.meta"))
    data = bytearray(path.read_bytes())
    (first, *_) = iterate_records(bytes(data))
    data[first.position + first.size - 1] ^= 1
    with path.open("r+b") as file:
        file.write(data)
    return path


def is_clean(node: Node) -> bool:
    return metaserver("verify", str(node.data)).returncode == 0


@pytest.mark.parametrize(
    ("who", "log"), [("master", TRANSACTIONS), ("slave", TRANSACTIONS), ("slave", REGISTRY)]
)
def test_another_replica_repairs_them(who: str, log: str, pair: Pair) -> None:
    start(pair)
    node: Node = getattr(pair.place, who)
    node.stop()
    before = min((node.data / log).glob("*.meta")).read_bytes()
    damaged = flip(node, log)
    node.start()
    wait_until(lambda: scrub_of(node)["repaired"] == 1, SECONDS_MAX, f"a repair\n{node.log_tail()}")
    assert damaged.read_bytes() == before
    wait_until(pair.place.is_well, SECONDS_MAX, f"all is well\n{node.problems()}")
    # The master reads its journal again by itself.
    commit(pair.place.master, b"behind the repair")
    wait_until(pair.place.is_well, SECONDS_MAX, "all is well behind it")
    for one in (pair.place.master, pair.place.slave):
        wait_until(partial(is_clean, one), SECONDS_MAX, "verify finds nothing")


def test_until_then_transactions_are_refused_and_the_reason_is_told(pair: Pair) -> None:
    start(pair)
    pair.place.slave.stop()
    pair.place.master.stop()
    flip(pair.place.master, TRANSACTIONS)
    pair.place.master.start()
    (told, *_) = pair.place.master.problems()
    assert told.startswith("The transactions of this broker have not been recovered: offset 0 is damaged")
    pair.place.slave.start()
    wait_until(pair.place.is_well, SECONDS_MAX, f"all is well\n{pair.place.master.log_tail()}")
    commit(pair.place.master, b"behind the repair")


def test_the_master_writes_the_log_of_its_registry_anew(pair: Pair) -> None:
    start(pair)
    damaged = flip(pair.place.master, REGISTRY)
    wait_until(lambda: not damaged.exists(), SECONDS_MAX, f"the old one goes\n{pair.place.master.log_tail()}")
    wait_until(pair.place.is_well, SECONDS_MAX, "all is well")
    assert scrub_of(pair.place.master)["open"] == 0
    pair.place.master.stop()
    pair.place.master.start()
    wait_until(lambda: has_all(pair), SECONDS_MAX, "all is well behind a start")
    commit(pair.place.master, b"found by what the registry holds")


def test_a_start_that_cannot_read_the_registry_says_what_to_do(pair: Pair) -> None:
    start(pair)
    master, slave = pair.place.master, pair.place.slave
    master.stop()
    flip(master, REGISTRY)
    master.start()
    told = [problem for problem in master.problems() if "metaServer repair --from HOST:PORT" in problem]
    assert told[0].startswith("the embedded registry does not serve: ")
    repair = ["repair", "local", "-f", str(pair.place.server_file), "--from", f"127.0.0.1:{slave.port}"]
    done = metaserver(*repair)
    assert done.returncode == 0, done.stdout + done.stderr
    master.stop()
    master.start()
    wait_until(pair.place.is_well, SECONDS_MAX, "all is well")
    commit(master, b"found by what the registry holds")
