"""Makes a file durable without stopping the loop.

A sync in a worker thread means two hand-overs of the interpreter lock, 150 µs on a small machine: as long as
the sync itself. Linux can do it without a thread: a sync is submitted (``io_submit``, IOCB_CMD_FDSYNC) and an
event descriptor says when it is done. Where the kernel does not offer that, threads do it.
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


class Syncer(Protocol):
    """Syncs files somewhere else."""

    def sync(self, file: File, done: SyncDone) -> None:
        """Make what is written durable; then, later and on the loop, ``done(None)`` or ``done(error)``."""
        ...

    def close(self) -> None:
        """Give everything back; nothing is called any more."""
        ...


class ThreadSyncer:
    """Syncs in the executor's threads."""

    def __init__(self, executor: Executor) -> None:
        """Use the executor."""
        self._executor = executor

    def sync(self, file: File, done: SyncDone) -> None:
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
        poller.register(self._wake, READABLE, self._report)

    def sync(self, file: File, done: SyncDone) -> None:
        """See :class:`Syncer`."""
        self._last_number += 1
        self._request.data = self._last_number
        self._request.descriptor = file.fileno()
        if self._call(self._submit, self._context, ctypes.c_long(1), self._requests) == 1:
            self._waiting[self._last_number] = done
        else:
            self._otherwise.sync(file, done)

    def close(self) -> None:
        """See :class:`Syncer`; waits for what is under way."""
        self._call(self._destroy, self._context)
        self._poller.unregister(self._wake)
        os.close(self._wake)

    def _report(self, _events: int) -> None:
        try:
            os.eventfd_read(self._wake)
        except BlockingIOError:
            return
        count = _EVENTS_AT_ONCE_MAX
        # The kernel may hold more than was asked for at the start, and tells of each only once.
        while count == _EVENTS_AT_ONCE_MAX:
            count = self._call(
                self._get_events,
                self._context,
                ctypes.c_long(0),
                ctypes.c_long(_EVENTS_AT_ONCE_MAX),
                self._events,
                self._no_time,
            )
            # Copied first: who is called may submit, and the kernel write here again.
            results = [(self._events[index].data, self._events[index].result) for index in range(count)]
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
