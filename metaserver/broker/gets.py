"""Reads: gets, the long poll, offset queries."""

from __future__ import annotations

import zlib
from functools import partial
from typing import TYPE_CHECKING

import attrs

from metaserver.broker.filtering import GAP_BYTES, Selection, both, select
from metaserver.broker.partition import WaitingGet
from metaserver.errors import (
    FilterError,
    MetaServerError,
    OffsetInHoleError,
    OffsetOutOfRangeError,
    RefusedError,
)
from metaserver.filters import Filter, UnknownFilter
from metaserver.logs import get_logger
from metaserver.names import MAX_OFFSET
from metaserver.protocol import Status, encode_result, encode_value_header

if TYPE_CHECKING:
    from metaserver.broker.broker import Broker
    from metaserver.broker.partition import Partition
    from metaserver.broker.sink import ReplySink
    from metaserver.protocol import Get, OffsetQuery
    from metaserver.storage import LogSlice

_log = get_logger(__name__)

_CONDITIONS_MAX = 256
"""Kept compiled; more, and they are compiled anew."""
_ZLIB_LEVEL = 3
"""Of a mebibyte of small JSON records, at 119 MB/s, it leaves 5 % more than level 6 does at 61 MB/s."""


@attrs.define(eq=False)
class GetHandler:
    """A broker's answers to gets and offset queries."""

    _broker: Broker
    _conditions: dict[str, Filter] = attrs.Factory(dict)
    """Of clients."""

    def get(self, get: Get, sink: ReplySink) -> None:
        """Answer with bytes of the log, now or when there are some."""
        self._broker.counters.get += 1
        partition = self._broker.partitions.get((get.topic, get.partition))
        if partition is not None and partition.config.stat:
            self._broker.real_time.add("get", get.topic, get.group, 1, 1)
        wait_ms = min(get.wait_ms, self._broker.config.max_long_poll_ms)
        if (
            wait_ms > 0
            and partition is not None
            and get.offset == partition.readable_offset
            and get.size_max > 0
            and not self._broker.is_closed(get.topic, get.partition)
            and self._broker.waiting_get_count < self._broker.config.max_waiting_gets
        ):
            self._wait_for_data(partition, get, wait_ms / 1000, sink)
        else:
            self._answer_get(partition, get, sink)

    def _wait_for_data(self, partition: Partition, get: Get, wait_seconds: float, sink: ReplySink) -> None:
        self._broker.waiting_get_count += 1
        sink.add_waiting_get(1)

        def answer() -> None:
            self._broker.waiting_get_count -= 1
            sink.add_waiting_get(-1)
            if waiting.timer is not None:
                self._broker.timers.cancel(waiting.timer)
            if sink.is_open:
                self._answer_get(partition, get, sink)
                sink.flush()

        def give_up() -> None:
            del partition.waiting_gets[waiting]
            answer()

        waiting = WaitingGet(answer)
        waiting.timer = self._broker.timers.schedule(wait_seconds, give_up)
        partition.waiting_gets[waiting] = None

    def _answer_get(self, partition: Partition | None, get: Get, sink: ReplySink) -> None:
        try:
            log_slice = self._read(partition, get)
        except RefusedError as refusal:
            if refusal.status in (Status.NOT_FOUND, Status.MOVED):
                self._count_miss(partition, get, refusal.status == Status.MOVED)
            sink.send(encode_result(refusal.status, refusal.text, get.opaque))
            return
        except (MetaServerError, OSError) as error:
            _log.error("Get failed", topic=get.topic, partition=get.partition, reason=str(error))
            text = self._broker.failure_text(get.topic, get.partition, str(error))
            sink.send(encode_result(Status.ERROR, text, get.opaque))
            return
        has_filter = partition is not None and get.group in partition.filters
        # Slaves alone ask for compressed bytes, and have to have all of them.
        if (get.condition or has_filter) and not get.is_compressed:
            self._answer_filtered(partition, get, log_slice, sink)
            return
        if partition is not None:
            # Who gets bytes he can do nothing with asks for them again.
            if get.offset == partition.last_get_offset:
                self._broker.suspect(partition.name, get.offset)
            partition.last_get_offset = get.offset
        traffic = self._broker.traffic[get.topic]
        traffic.gets += 1
        traffic.bytes_out += log_slice.size
        if get.is_compressed:
            self._send_compressed(log_slice, get.opaque, sink)
            return
        header = encode_value_header(log_slice.size, get.opaque)
        if self._broker.page_cache.holds(log_slice.file, log_slice.position, log_slice.size):
            sink.send_slice(header, log_slice)
        else:
            # A page that must come from the disk would stop every connection: a worker fetches it.
            sink.add_inflight(log_slice.size)
            self._broker.executor.submit(
                partial(self._broker.page_cache.fetch, log_slice.file, log_slice.position, log_slice.size),
                lambda _result, _failure: _send_fetched(sink, header, log_slice),
            )

    def _answer_filtered(
        self, partition: Partition | None, get: Get, log_slice: LogSlice, sink: ReplySink
    ) -> None:
        """Read, and ask about each message, in a worker: the loop goes on."""
        try:
            configured = _usable(None if partition is None else partition.filters.get(get.group))
            asked_for = self._parse(get.condition) if get.condition else None
        except RefusedError as refusal:
            log_slice.release()
            sink.send(encode_result(refusal.status, refusal.text, get.opaque))
            return
        # What is configured is meant for clients that cannot leave messages out themselves.
        gap_bytes = 0 if configured is not None else GAP_BYTES
        accepts = both(configured, asked_for)

        def work() -> tuple[bytes, Selection]:
            data = log_slice.read()
            return data, select(data, accepts, gap_bytes)

        def done(result: tuple[bytes, Selection] | None, failure: Exception | None) -> None:
            sink.add_inflight(-log_slice.size)
            log_slice.release()
            if sink.is_open:
                self._send_selected(partition, get, result, failure, sink)
                sink.flush()

        sink.add_inflight(log_slice.size)
        self._broker.executor.submit(work, done)

    def _send_selected(
        self,
        partition: Partition | None,
        get: Get,
        result: tuple[bytes, Selection] | None,
        failure: Exception | None,
        sink: ReplySink,
    ) -> None:
        if result is None:
            _log.error("Get failed", topic=get.topic, partition=get.partition, reason=str(failure))
            text = self._broker.failure_text(get.topic, get.partition, str(failure))
            sink.send(encode_result(Status.ERROR, text, get.opaque))
            return
        data, selection = result
        if selection.skipped_bytes:
            self._count_miss(partition, get, is_moved=True)
            text = str(get.offset + selection.skipped_bytes)
            if get.condition is not None:
                text += f" {get.offset}"
            sink.send(encode_result(Status.MOVED, text, get.opaque))
            return
        traffic = self._broker.traffic[get.topic]
        traffic.gets += 1
        traffic.bytes_out += selection.size_bytes
        header = encode_value_header(selection.size_bytes, get.opaque)
        sink.send(header + data[: selection.size_bytes])

    def _parse(self, condition: str) -> Filter:
        """Compiled once; consumers ask the same again and again."""
        found = self._conditions.get(condition)
        if found is None:
            try:
                found = Filter.parse(condition)
            except FilterError as error:
                raise RefusedError(Status.BAD_REQUEST, f"Bad request,{error}") from None
            if len(self._conditions) >= _CONDITIONS_MAX:
                self._conditions.clear()
            self._conditions[condition] = found
        return found

    def _send_compressed(self, log_slice: LogSlice, opaque: int, sink: ReplySink) -> None:
        """A worker reads and compresses: it would stop every connection for as long as that takes."""
        size = log_slice.size

        def done(body: bytes | None, failure: Exception | None) -> None:
            sink.add_inflight(-size)
            log_slice.release()
            if body is None:
                _log.error("Get failed", reason=str(failure))
                sink.send(encode_result(Status.ERROR, f"The log cannot be read: {failure}", opaque))
            else:
                sink.send(encode_value_header(len(body), opaque) + body)
            sink.flush()

        sink.add_inflight(size)
        self._broker.executor.submit(lambda: zlib.compress(log_slice.read(), _ZLIB_LEVEL), done)

    def _read(self, partition: Partition | None, get: Get) -> LogSlice:
        if self._broker.is_closed(get.topic, get.partition):
            raise RefusedError(
                Status.FORBIDDEN,
                f"Partition[{self._broker.config.broker_id}-{get.partition}] has been closed",
            )
        if partition is None:
            raise no_such_partition(get.topic, get.partition)
        if get.size_max <= 0:
            raise RefusedError(Status.BAD_REQUEST, f"Bad request,invalid max size:{get.size_max}")
        size_max = min(get.size_max, self._broker.config.max_transfer_size_bytes)
        try:
            return partition.log.read(get.offset, size_max, partition.readable_offset)
        except OffsetInHoleError as hole:
            raise RefusedError(Status.MOVED, str(hole.next_offset)) from None
        except OffsetOutOfRangeError as outside:
            if get.offset < outside.start:
                raise RefusedError(Status.MOVED, str(outside.start)) from None
            tells_end = self._broker.config.update_consumer_offsets or get.offset == MAX_OFFSET
            if get.offset > outside.end and tells_end:
                raise RefusedError(Status.MOVED, str(outside.end)) from None
            raise RefusedError(Status.NOT_FOUND, f"Could not find message at position {get.offset}") from None

    def _count_miss(self, partition: Partition | None, get: Get, is_moved: bool) -> None:  # noqa: FBT001
        self._broker.counters.get_miss += 1
        if is_moved:
            self._broker.counters.offset += 1
        if partition is not None and partition.config.stat:
            self._broker.real_time.add("get_miss", get.topic, get.group, 1, 1)
            if is_moved:
                self._broker.real_time.add("offset", get.topic, get.group, 1, 1)

    def offset(self, query: OffsetQuery, sink: ReplySink) -> None:
        """Answer with the valid offset that is nearest."""
        self._broker.counters.offset += 1
        partition = self._broker.partitions.get((query.topic, query.partition))
        if partition is None:
            refusal = no_such_partition(query.topic, query.partition)
            sink.send(encode_result(refusal.status, refusal.text, query.opaque))
            return
        if partition.config.stat:
            self._broker.real_time.add("offset", query.topic, query.group, 1, 1)
        if partition.log.start_offset < query.offset < partition.readable_offset:
            self._broker.suspect(partition.name, query.offset)
        nearest = min(partition.log.segment_start(query.offset), partition.readable_offset)
        if query.offset >= partition.readable_offset:
            nearest = partition.readable_offset
        sink.send(encode_result(Status.SUCCESS, str(nearest), query.opaque))


def _usable(found: Filter | UnknownFilter | None) -> Filter | None:
    if isinstance(found, UnknownFilter):
        raise RefusedError(Status.ERROR, found.reason)
    return found


def _send_fetched(sink: ReplySink, header: bytes, log_slice: LogSlice) -> None:
    # A failed fetch shows again, and is reported, when the bytes are sent.
    sink.add_inflight(-log_slice.size)
    if sink.is_open:
        sink.send_slice(header, log_slice)
        sink.flush()
    else:
        log_slice.release()


def no_such_partition(topic: str, partition: int) -> RefusedError:
    """In MetaQ's words."""
    return RefusedError(Status.NOT_FOUND, f"The topic `{topic}` in partition `{partition}` is not exists")
