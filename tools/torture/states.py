"""Disks as crashes may leave them, by the hundred thousand, and what recovery makes of each.

The script of the log's tests ends at some call. After a power cut there is, of what was not synced, any part
from the front of each file's and each directory's changes; after the end of the process alone all of it is
there, until the power goes as well. All in one process, on the filesystem of the tests; its fault model says
what is possible. What recovery finds is compared with what was promised; now and then it is cut short itself.
"""

from __future__ import annotations

import copy
from collections import Counter
from contextlib import suppress
from hashlib import blake2b
from random import Random
from typing import TYPE_CHECKING

import attrs

from tests.storage.faulty_filesystem import CrashedError, Fault, FaultyFileSystem
from tests.storage.test_crash_points import Script, check_after_restart
from tools.torture.verifier import BrokenPromiseError

if TYPE_CHECKING:
    from collections.abc import Callable

    from metaserver.storage import Point
    from tests.storage.faulty_filesystem import Kind, Survival

_SIZES = ((400, 300), (400, 100_000), (250, 300), (250, 100_000), (2000, 300))
"""Of segments, and between two checkpoints: what one syncs hides what the other does not."""
_KINDS: tuple[Kind, ...] = ("crash before", "crash after")
_CUTS_A_CALL = 40
"""Different ones, of what is pending there; few calls leave more."""
_SURVIVALS: tuple[Survival, ...] = ("prefix", "zeros")
"""With a choice of their own for each file; nothing and everything are among the prefixes."""
_WITH_POWER = 0.2
"""How often only the process ends."""
_AGAIN = 0.3
"""How often there is a second crash, while recovering from the first."""
_RECOVERY_CALLS_MAX = 40
_SAY_EVERY = 10_000


def run_states(count: int, seed: int, say: Callable[[str], None]) -> list[tuple[str, str]]:
    """Look at so many different disks; raises BrokenPromiseError with what leads there again."""
    explorer = _Explorer(Random(seed))
    calls = [(sizes, point, number) for sizes in _SIZES for point, number in _calls(sizes)]
    told = 0
    while len(explorer.seen) < count:
        sizes, point, occurrence = explorer.random.choice(calls)
        fault = Fault(point, occurrence, explorer.random.choice(_KINDS))
        explorer.explore(sizes, fault, min(_CUTS_A_CALL, count - len(explorer.seen)))
        if len(explorer.seen) // _SAY_EVERY > told:
            told = len(explorer.seen) // _SAY_EVERY
            say(f"{len(explorer.seen):,} disks")
    return [
        ("disks looked at, all different", f"{len(explorer.seen):,}"),
        ("of them with a second crash, while recovering", f"{explorer.second_crashes:,}"),
        (
            "calls at which a script was cut short",
            f"{len(explorer.faults):,} of {len(_KINDS) * len(calls):,}",
        ),
        ("seed", str(seed)),
    ]


def _script(sizes: tuple[int, int], fault: Fault | None = None) -> Script:
    segment_bytes_max, checkpoint_bytes = sizes
    return Script(
        FaultyFileSystem(fault=fault), segment_bytes_max=segment_bytes_max, checkpoint_bytes=checkpoint_bytes
    )


def _calls(sizes: tuple[int, int]) -> list[tuple[Point, int]]:
    """Of a whole run."""
    script = _script(sizes)
    script.run()
    counts = Counter(script.filesystem.calls)
    return [(point, number) for point, count in counts.items() for number in range(count)]


@attrs.define(eq=False)
class _Explorer:
    random: Random
    seen: set[bytes] = attrs.Factory(set)
    faults: set[tuple[object, ...]] = attrs.Factory(set)
    second_crashes: int = 0

    def explore(self, sizes: tuple[int, int], fault: Fault, count: int) -> None:
        """Some of what a crash at a call may leave."""
        self.faults.add((sizes, fault.point, fault.occurrence, fault.kind))
        script = _script(sizes, fault)
        with suppress(CrashedError):
            script.run()
        for _ in range(count):
            crash_seed = self.random.getrandbits(64)
            try:
                self._crash(copy.deepcopy(script), Random(crash_seed))
            except Exception as error:
                raise BrokenPromiseError(
                    [f"sizes {sizes}, {fault}, then the crash {crash_seed}: {error!r}"]
                ) from error

    def _crash(self, script: Script, random: Random) -> None:
        filesystem = script.filesystem
        _restart(filesystem, random)
        if not self._is_new(script):
            return
        if random.random() < _AGAIN:
            _die_at(filesystem, random.randrange(_RECOVERY_CALLS_MAX))
            with suppress(CrashedError):
                script.open()
            self.second_crashes += filesystem.is_crashed
            filesystem.on_call = None
            _restart(filesystem, random)
        check_after_restart(script)

    def _is_new(self, script: Script) -> bool:
        digest = blake2b(digest_size=12)
        digest.update(b"%d %d" % (len(script.promised), len(script.attempted)))
        for path, content in script.filesystem.files():
            digest.update(b"%s %d " % (path.encode(), len(content)))
            digest.update(content)
        found = digest.digest()
        if found in self.seen:
            return False
        self.seen.add(found)
        return True


def _restart(filesystem: FaultyFileSystem, random: Random) -> None:
    if random.random() < _WITH_POWER:
        filesystem.restart()
    else:
        filesystem.cut_power(random.choice(_SURVIVALS), random.randrange)


def _die_at(filesystem: FaultyFileSystem, number: int) -> None:
    """The process ends at the call of that number from now on, whatever it is."""
    left = number

    def on_call(_point: Point) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            filesystem.crash()

    filesystem.on_call = on_call
