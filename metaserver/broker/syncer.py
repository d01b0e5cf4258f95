"""Makes a file durable without stopping the loop.

A sync in a worker thread means two hand-overs of the interpreter lock, 150 µs on a small machine: as long as
the sync itself. Linux can do it without a thread: a sync is submitted (``io_submit``, IOCB_CMD_FDSYNC) and an
event descriptor says when it is done. Where the kernel does not offer that, threads do it.

The way back through the event descriptor and two schedulers still costs half of what the disk takes. So for
a lone message, while nobody else wants anything, the loop waits for the kernel itself, but never longer than
:data:`LONE_WAIT_SECONDS`; and for a while not at all where the disk was slower, or others came meanwhile.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
from typing import TYPE_CHECKING, Protocol, TypeAlias

from metaserver.broker.poller import READABLE
from metaserver.logs import get_logger
from metaserver.storage import Point

if TYPE_CHECKING:
    from collections.abc import Callable

    from metaserver.broker.executor import Executor
    from metaserver.broker.poller import Poller
    from metaserver.storage import File

_log = get_logger(__name__)

SyncDone: TypeAlias = "Callable[[OSError | None], None]"

_SYSTEM_CALLS = {"x86_64": (206, 207, 208, 209), "aarch64": (0, 1, 4, 2)}
"""io_setup, io_destroy, io_getevents, io_submit."""
_IN_FLIGHT_MAX = 256
_EVENTS_AT_ONCE_MAX = 64
_FDSYNC = 3
_FLAG_EVENT_DESCRIPTOR = 1

LONE_WAIT_SECONDS = 0.0005
"""The longest time the loop stands still for a disk."""
_SYNCS_AFTER_SLOW = 50
"""So many lone messages take the long way after one for which the disk took longer."""
_SYNCS_AFTER_COMPANY = 100
"""And so many after one during which others came: they could have shared a sync."""


class Syncer(Protocol):
    """Syncs files somewhere else."""

    def sync(self, file: File, done: SyncDone, *, is_lone: bool) -> None:
        """Make what is written durable; then, on the loop, ``done(None)`` or ``done(error)``.

        ``is_lone`` says that a single message waits for it: ``done`` may then be called before this
        returns.
        """
        ...

    def close(self) -> None:
        """Give everything back; nothing is called any more."""
        ...


class ThreadSyncer:
    """Syncs in the executor's threads."""

    def __init__(self, executor: Executor) -> None:
        """Use the executor."""
        self._executor = executor

    def sync(self, file: File, done: SyncDone, *, is_lone: bool) -> None:  # noqa: ARG002
        """See :class:`Syncer`."""

        def report(_result: object, failure: Exception | None) -> None:
            if failure is None or isinstance(failure, OSError):
                done(failure)
            else:
                done(OSError(errno.EIO, repr(failure)))

        self._executor.submit(lambda: file.sync(Point.APPEND_SYNC), report)

    def close(self) -> None:
        """See :class:`Syncer`; the threads are the executor's."""


class _Request(ctypes.Structure):
    """``struct iocb`` of linux/aio_abi.h, little-endian."""

    _fields_ = (
        ("data", ctypes.c_uint64),
        ("key", ctypes.c_uint32),
        ("rw_flags", ctypes.c_int32),
        ("opcode", ctypes.c_uint16),
        ("priority", ctypes.c_int16),
        ("descriptor", ctypes.c_uint32),
        ("buffer", ctypes.c_uint64),
        ("size", ctypes.c_uint64),
        ("offset", ctypes.c_int64),
        ("reserved", ctypes.c_uint64),
        ("flags", ctypes.c_uint32),
        ("event_descriptor", ctypes.c_uint32),
    )


class _Time(ctypes.Structure):
    """``struct timespec``."""

    _fields_ = (("seconds", ctypes.c_int64), ("nanoseconds", ctypes.c_int64))


class _Event(ctypes.Structure):
    """``struct io_event`` of linux/aio_abi.h."""

    _fields_ = (
        ("data", ctypes.c_uint64),
        ("request", ctypes.c_uint64),
        ("result", ctypes.c_int64),
        ("result2", ctypes.c_int64),
    )


class KernelSyncer:
    """Syncs by asynchronous requests to the kernel; :func:`make_syncer` says whether that works here."""

    def __init__(self, poller: Poller, otherwise: Syncer) -> None:
        """Raises OSError where the kernel refuses; ``otherwise`` takes over when its queue is full."""
        numbers = _SYSTEM_CALLS.get(platform.machine())
        if numbers is None:
            raise OSError(errno.ENOSYS, "asynchronous requests are not known for this processor")
        self._setup, self._destroy, self._get_events, self._submit = map(ctypes.c_long, numbers)
        self._call = ctypes.CDLL(None, use_errno=True).syscall
        self._call.restype = ctypes.c_long
        self._context = ctypes.c_ulong(0)
        if self._call(self._setup, ctypes.c_long(_IN_FLIGHT_MAX), ctypes.byref(self._context)) != 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        self._otherwise = otherwise
        self._poller = poller
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._waiting: dict[int, SyncDone] = {}
        self._last_number = 0
        # The kernel copies a request while it is submitted: one of each is enough.
        self._request = _Request(opcode=_FDSYNC, flags=_FLAG_EVENT_DESCRIPTOR, event_descriptor=self._wake)
        self._requests = (ctypes.POINTER(_Request) * 1)(ctypes.pointer(self._request))
        self._events = (_Event * _EVENTS_AT_ONCE_MAX)()
        self._no_time = ctypes.byref(_Time(0, 0))
        self._lone_time = ctypes.byref(_Time(0, int(LONE_WAIT_SECONDS * 1e9)))
        self._long_way = 0
        poller.register(self._wake, READABLE, self._report)

    def sync(self, file: File, done: SyncDone, *, is_lone: bool) -> None:
        """See :class:`Syncer`."""
        self._last_number += 1
        self._request.data = self._last_number
        self._request.descriptor = file.fileno()
        if self._call(self._submit, self._context, ctypes.c_long(1), self._requests) == 1:
            self._waiting[self._last_number] = done
            if is_lone and self._poller.ready_count == 1:
                self._wait_for(self._last_number)
        else:
            self._otherwise.sync(file, done, is_lone=is_lone)

    def close(self) -> None:
        """See :class:`Syncer`; waits for what is under way."""
        self._call(self._destroy, self._context)
        self._poller.unregister(self._wake)
        os.close(self._wake)

    def _wait_for(self, number: int) -> None:
        if self._long_way > 0:
            self._long_way -= 1
            return
        results = self._collect(1, self._lone_time)
        # Taken back before looking again: what comes later than that look finds it unset.
        self._clear_wake()
        results += self._collect(0, self._no_time)
        if not any(done == number for done, _ in results):
            self._long_way = _SYNCS_AFTER_SLOW
        elif self._poller.has_more():
            self._long_way = _SYNCS_AFTER_COMPANY
        self._settle(results)

    def _report(self, _events: int) -> None:
        self._clear_wake()
        self._settle(self._collect(0, self._no_time))

    def _clear_wake(self) -> None:
        try:
            os.eventfd_read(self._wake)
        except BlockingIOError:
            return  # Nothing was reported, or it was collected already.

    def _collect(self, count_min: int, patience: object) -> list[tuple[int, int]]:
        """(number, result) of all that is done; with a minimum, waits for that many."""
        results: list[tuple[int, int]] = []
        while True:
            count = self._call(
                self._get_events,
                self._context,
                ctypes.c_long(count_min),
                ctypes.c_long(_EVENTS_AT_ONCE_MAX),
                self._events,
                patience,
            )
            results += [(self._events[index].data, self._events[index].result) for index in range(count)]
            # The kernel may hold more than was asked for at the start, and tells of each only once.
            if count < _EVENTS_AT_ONCE_MAX:
                return results
            count_min, patience = 0, self._no_time

    def _settle(self, results: list[tuple[int, int]]) -> None:
        for number, result in results:
            done = self._waiting.pop(number)
            done(None if result == 0 else OSError(-result, os.strerror(-result)))


def make_syncer(poller: Poller, executor: Executor) -> KernelSyncer | ThreadSyncer:
    """The best this machine offers."""
    threads = ThreadSyncer(executor)
    try:
        return KernelSyncer(poller, threads)
    except OSError as error:
        _log.info("The kernel takes no asynchronous syncs: threads do them", reason=str(error))
        return threads
