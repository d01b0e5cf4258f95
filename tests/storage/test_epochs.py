from __future__ import annotations

from typing import TYPE_CHECKING

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from metaserver.epochs import Epoch, EpochChain, LogHistory, common_end
from metaserver.errors import CorruptLogError
from metaserver.storage.epochs import decode_epochs, encode_epochs
from tests.storage.faulty_filesystem import FaultyFileSystem
from tests.storage.support import DATA, DIRECTORY, NAME, open_store, options

if TYPE_CHECKING:
    from collections.abc import Callable

GOLDEN = b"""metaserver epochs 1
epoch 1 5f1c0ffee0d15ea5 0
epoch 2 0a1b2c3d4e5f6071 1310720
crc f567259d
"""
CHAIN = EpochChain((Epoch(1, 0x5F1C0FFEE0D15EA5, 0), Epoch(2, 0x0A1B2C3D4E5F6071, 1310720)))


def test_the_file_is_pinned() -> None:
    assert encode_epochs(CHAIN) == GOLDEN
    assert decode_epochs(GOLDEN) == CHAIN


@given(st.integers(0, len(GOLDEN) - 1), st.integers(1, 255))
def test_a_damaged_file_is_noticed(position: int, difference: int) -> None:
    data = bytearray(GOLDEN)
    data[position] ^= difference
    assert decode_epochs(bytes(data)) is None


def test_a_chain_on_the_wire() -> None:
    assert EpochChain.parse(str(CHAIN)) == CHAIN
    assert EpochChain.parse("") == EpochChain()
    for text in ("1 ff", "x ff 0", "1 ff 0\n1 fe 5\n", "1 ff 9\n2 fe 5\n"):
        with pytest.raises(ValueError):
            EpochChain.parse(text)


def test_each_start_as_master_begins_an_epoch_before_anything_is_written() -> None:
    filesystem = FaultyFileSystem()
    for life in range(3):
        store = open_store(filesystem, filesystem.clock, options(epoch_origin=100 + life))
        log = store.create(NAME, DATA)
        filesystem.cut_power("nothing")
        assert b"%016x" % (100 + life) in filesystem.read_bytes(DIRECTORY / "epochs")
        filesystem._locks.clear()
        store = open_store(filesystem, filesystem.clock, options(epoch_origin=200 + life))
        log = store.partitions[NAME]
        log.append([b"x" * 25], 25, 1, life)
        store.close()
    store = open_store(filesystem, filesystem.clock)
    # Epochs that wrote nothing are gone; a slave begins none.
    assert store.epochs[NAME].chain == EpochChain((Epoch(2, 200, 0), Epoch(4, 201, 25), Epoch(6, 202, 50)))


def test_a_damaged_file_keeps_the_partition_closed() -> None:
    filesystem = FaultyFileSystem()
    store = open_store(filesystem, filesystem.clock, options(epoch_origin=1))
    store.create(NAME, DATA)
    store.close()
    filesystem.write_bytes(DIRECTORY / "epochs", b"rubbish")
    store = open_store(filesystem, filesystem.clock, options(epoch_origin=2))
    error = store.failed[NAME]
    assert isinstance(error, CorruptLogError)
    assert "move it away to begin a history anew" in str(error)
    assert filesystem.read_bytes(DIRECTORY / "epochs") == b"rubbish"


# A model: logs that know of each byte who wrote it, so that the common prefix can be seen.


@attrs.define
class Replica:
    bytes_of: list[int] = attrs.Factory(list)
    """For each byte the number of the write it came with."""
    chain: EpochChain = attrs.Factory(EpochChain)

    @property
    def history(self) -> LogHistory:
        return LogHistory(self.chain, 0, len(self.bytes_of))


@attrs.define
class World:
    replicas: list[Replica]
    writes: int = 0
    origins: int = 0

    def begin(self, index: int) -> None:
        self.origins += 1
        replica = self.replicas[index]
        replica.chain = replica.chain.begin(self.origins, len(replica.bytes_of))

    def write(self, index: int, size: int) -> None:
        self.writes += 1
        self.replicas[index].bytes_of += [self.writes] * size

    def lose(self, index: int, size: int) -> None:
        """A power cut takes an unsynced tail; a start as master follows."""
        replica = self.replicas[index]
        del replica.bytes_of[len(replica.bytes_of) - min(size, len(replica.bytes_of)) :]
        self.begin(index)

    def follow(self, slave: int, master: int, size: int) -> None:
        """A handshake, and some bytes."""
        copy, original = self.replicas[slave], self.replicas[master]
        if slave == master:
            return
        found = common_end(copy.history, original.history)
        actual = common_prefix(copy, original)
        if copy.bytes_of and not found:
            # It stops. Nothing may have been in common.
            assert actual == 0
            return
        assert not copy.bytes_of or found == actual
        del copy.bytes_of[actual:]
        copy.chain = original.chain
        copy.bytes_of += original.bytes_of[actual : actual + size]


def common_prefix(one: Replica, other: Replica) -> int:
    count = 0
    for mine, theirs in zip(one.bytes_of, other.bytes_of, strict=False):
        if mine != theirs:
            break
        count += 1
    return count


def step() -> st.SearchStrategy[Callable[[World], None]]:
    index, size = st.integers(0, 2), st.integers(0, 5)
    return st.one_of(
        st.builds(lambda i: lambda world: world.begin(i), index),
        st.builds(lambda i, n: lambda world: begin_and_write(world, i, n), index, size),
        st.builds(lambda i, n: lambda world: world.lose(i, n), index, size),
        st.builds(lambda s, m, n: lambda world: world.follow(s, m, n), index, index, size),
    )


def begin_and_write(world: World, index: int, size: int) -> None:
    world.begin(index)
    world.write(index, size)


@given(st.lists(step(), max_size=40))
def test_the_common_end_is_where_the_bytes_part(steps: list[Callable[[World], None]]) -> None:
    world = World([Replica(), Replica(), Replica()])
    for each in steps:
        each(world)


def test_a_log_from_before_there_were_epochs() -> None:
    old = LogHistory(EpochChain(), 0, 500)
    master = LogHistory(EpochChain().begin(9, 800), 0, 900)
    assert common_end(old, master) == 500
    assert common_end(LogHistory(EpochChain(), 0, 850), master) == 800
    empty = LogHistory(EpochChain().begin(9, 0), 0, 0)
    assert common_end(old, empty) is None
