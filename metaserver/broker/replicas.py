"""What a broker does for replication beside appending: whose bytes a log holds, giving some up, skipping."""

from __future__ import annotations

from typing import TYPE_CHECKING

from metaserver.broker.gets import no_such_partition
from metaserver.errors import StorageError
from metaserver.logs import get_logger
from metaserver.protocol import Status, encode_result
from metaserver.storage import quarantine_tail
from metaserver.storage.filesystem import translate_error

if TYPE_CHECKING:
    from collections.abc import Callable

    from metaserver.broker.broker import Broker
    from metaserver.broker.committer import Committer
    from metaserver.broker.partition import Partition
    from metaserver.broker.sink import ReplySink
    from metaserver.epochs import EpochChain
    from metaserver.protocol import EpochsQuery
    from metaserver.storage import Divergence, FileSystem, MessageStore, PartitionLog, QuarantineReport

_log = get_logger(__name__)


def answer_epochs(
    query: EpochsQuery, store: MessageStore, partition: Partition | None, sink: ReplySink, *, is_slave: bool
) -> None:
    """Say whose bytes the log holds; and say loudly that a replica holds more than its master.

    What a slave lacks is still to come from its own master.
    """
    if partition is None:
        refusal = no_such_partition(query.topic, query.partition)
        sink.send(encode_result(refusal.status, refusal.text, query.opaque))
        return
    end = partition.log.end_offset
    if query.end_offset > end and not is_slave:
        _log.error(
            "A replica holds more than this broker: messages were lost here",
            partition=str(partition.name),
            own_end=end,
            end_of_replica=query.end_offset,
        )
    partition.told_epochs[sink] = None
    sink.send(encode_result(Status.SUCCESS, str(store.epochs[partition.name].chain), query.opaque))


def skip(
    committer: Committer, partition: Partition, offset: int, done: Callable[[Exception | None], None]
) -> None:
    """Have a replica's log go on at an offset behind its end; readers are sent there from the gap.

    ``done`` follows on the loop; nothing may be appended before.
    """
    log = partition.log

    def finished(_result: object, failure: Exception | None) -> None:
        partition.maintain_offset = 0
        if failure is None:
            partition.publish(log.end_offset)
            partition.progressed()
        done(failure)

    committer.lend(partition, lambda: log.skip_to(offset), finished)


def read_log(log: PartitionLog, offset: int, size_bytes: int) -> bytes:
    """Bytes of a log, as far as they can be read."""
    pieces: list[bytes] = []
    while size_bytes > 0:
        try:
            log_slice = log.read(offset, size_bytes, log.end_offset)
        except StorageError:
            break
        try:
            pieces.append(log_slice.read())
        except OSError as error:
            _log.error("A partition cannot be read", directory=str(log.directory), reason=str(error))
            break
        finally:
            log_slice.release()
        offset, size_bytes = offset + log_slice.size, size_bytes - log_slice.size
    return b"".join(pieces)


def reconcile(
    broker: Broker,
    partition: Partition,
    filesystem: FileSystem,
    divergence: Divergence | None,
    chain: EpochChain,
    done: Callable[[QuarantineReport | None, Exception | None], None],
) -> None:
    """Put away what diverges, cut it off, and take over the master's epochs, in this order and durably.

    A crash in between leaves a copy in quarantine, and all of it to be done again. ``done`` follows on the
    loop; nothing may be appended before.

    Slaves of this slave have been told the history as it was. They are disconnected before another can be
    read here, and ask anew.
    """
    log, epochs = partition.log, broker.store.epochs[partition.name]
    chain_before = epochs.chain
    is_change = divergence is not None or chain != chain_before
    if divergence is not None:
        broker.acknowledgements.disconnect_slaves()
        partition.publish(min(partition.readable_offset, divergence.offset))
        broker.tell_cut(partition.name, divergence.offset)

    def work() -> QuarantineReport | None:
        report = None
        if divergence is not None:
            try:
                report = quarantine_tail(filesystem, log.directory.parent, log, divergence)
            except OSError as error:
                what = "what is not its master's cannot be put into quarantine"
                raise translate_error(filesystem, log.directory.parent, what, error) from error
            log.truncate(divergence.offset)
            # Without the epochs that wrote only what is gone, should a crash come before the next line.
            epochs.adopt(epochs.chain.until(divergence.offset))
        epochs.adopt(chain)
        return report

    def finished(report: QuarantineReport | None, failure: Exception | None) -> None:
        if is_change:
            broker.acknowledgements.disconnect_slaves()
        if divergence is not None:
            partition.maintain_offset = 0
            partition.publish(min(partition.readable_offset, log.end_offset))
            broker.tell_cut(partition.name, divergence.offset)
        if epochs.chain != chain_before:
            partition.epochs_changed()
        done(report, failure)

    broker.committer.lend(partition, work, finished)
