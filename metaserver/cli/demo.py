"""``demo``: what metaserver is for, in one terminal and a quarter of a minute.

A real master and a real slave in a temporary folder; messages flow, the slave is read, the master is killed
at a moment it cannot foresee, the slave goes on serving, the master comes back; then every acknowledged
message is looked for on both. What does not hold is said, and makes the exit code 1.
"""

from __future__ import annotations

import filecmp
import signal
import sys
from contextlib import asynccontextmanager
from itertools import pairwise
from typing import TYPE_CHECKING

import attrs
import click
import trio

from metaserver.cli.demo_screen import LiveScreen, PlainScreen, Scene, Step, StepState
from metaserver.cli.demo_stage import Stage
from metaserver.cli.demo_traffic import MESSAGES_PER_SECOND, Traffic, read_everything
from metaserver.cli.exit_codes import ExitCode
from metaserver.cli.output import Failure, complain, describe_bytes, describe_os_error, say
from metaserver.errors import MetaServerError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from metaserver.cli.demo_screen import Screen

_SECONDS = 15
_OVERHEAD_SECONDS = 3.0
"""For starting, checking and stopping; the rest is traffic."""
_POLL_SECONDS = 0.1
_LOOK_SECONDS = 0.01
_PATIENCE_SECONDS = 15.0
"""Beyond it something does not hold."""


class DemoError(Exception):
    """Something does not hold."""


@click.command()
@click.option(
    "--seconds",
    type=click.IntRange(5, 3600),
    default=_SECONDS,
    show_default=True,
    help="About how long it takes.",
)
@click.option("--plain", is_flag=True, help="Lines instead of a live picture, as without a terminal.")
def demo(*, seconds: int, plain: bool) -> None:
    """Show a master, a slave and a crash: real processes, in a temporary folder that is removed again."""
    with Stage() as stage:
        scene = Scene(stage, Traffic())
        is_live = sys.stdout.isatty() and not plain
        screen: Screen = LiveScreen(scene) if is_live else PlainScreen(scene)
        with screen:
            story = _Story(scene, screen, max(1.0, seconds - _OVERHEAD_SECONDS))
            is_interrupted = trio.run(_perform, story)
        if isinstance(story.problem, BrokenPipeError):
            raise story.problem
        if story.problem is not None:
            stage.is_kept = True
            said = describe_os_error(story.problem) if isinstance(story.problem, OSError) else story.problem
            complain(f"{said}; the files are kept in {stage.directory}")
    if story.problem is not None:
        raise SystemExit(int(ExitCode.FAILED))
    if is_interrupted:
        raise SystemExit(int(ExitCode.INTERRUPTED))
    say("Everything is stopped and removed. Your own: `metaServer start`, then `metaServer start slave`.")


async def _perform(story: _Story) -> bool:
    """Play the story; whether it was interrupted."""
    is_interrupted = False
    async with trio.open_nursery() as nursery:

        async def interrupt_with_control_c(
            task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
        ) -> None:
            nonlocal is_interrupted
            with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM, signal.SIGHUP) as signals:
                task_status.started()
                async for _ in signals:
                    is_interrupted = True
                    nursery.cancel_scope.cancel()

        await nursery.start(interrupt_with_control_c)
        await story.play()
        nursery.cancel_scope.cancel()
    return is_interrupted


@attrs.define(eq=False)
class _Story:
    _scene: Scene
    _screen: Screen
    _traffic_seconds: float
    problem: BaseException | None = None
    """What did not hold, or why it ended early."""

    async def play(self) -> None:
        """From the first start to the last check; ``problem`` tells how it went."""
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._watch)
                await self._acts()
                nursery.cancel_scope.cancel()
        except* (DemoError, Failure, MetaServerError, OSError) as group:
            self.problem = _first(group)

    async def _acts(self) -> None:
        stage, traffic = self._scene.stage, self._scene.traffic
        async with self._step("starting a master and a slave") as step:
            await trio.to_thread.run_sync(stage.start)
            step.text = f"a master and a slave started, in {stage.directory}"
        async with trio.open_nursery() as nursery:
            nursery.start_soon(traffic.follow, stage.slave)
            nursery.start_soon(traffic.produce, stage.master)
            await self._flow()
            await self._crash()
            await self._come_back()
            traffic.is_producing = False
            await self._verify()
            nursery.cancel_scope.cancel()
        async with self._step("stopping both") as step:
            await trio.to_thread.run_sync(stage.slave.stop)
            await trio.to_thread.run_sync(stage.master.stop)
            step.text = "both stopped in order"

    async def _flow(self) -> None:
        traffic = self._scene.traffic
        async with self._step(f"{MESSAGES_PER_SECOND} messages a second, copied to the slave") as step:
            await _until(lambda: traffic.read_from_slave > 0, "no message has come through to the slave")
            await trio.sleep(self._traffic_seconds * 0.45)
            step.text = (
                f"{len(traffic.acknowledged):,} messages acknowledged, {traffic.read_from_slave:,} already "
                f"read from the slave, {traffic.delay_ms or 0:.1f} ms after they were sent (median)"
            )

    async def _crash(self) -> None:
        stage, traffic = self._scene.stage, self._scene.traffic
        async with self._step("killing the master with SIGKILL") as step:
            stage.master.kill()
            step.text = f"the master killed with SIGKILL (pid {stage.master.pid}), in full flow"
        async with self._step("reading everything from the slave, without a master") as step:
            await trio.sleep(self._traffic_seconds * 0.25)
            found = await read_everything(stage.slave)
            numbers = {number for _, number in found}
            missing = len(traffic.acknowledged.keys() - numbers)
            step.text = f"the slave serves alone: {len(found):,} messages read from it" + (
                f"; {missing} acknowledged in the last moment are not on it yet"
                if missing
                else ", none is missing"
            )

    async def _come_back(self) -> None:
        stage, traffic = self._scene.stage, self._scene.traffic
        async with self._step("starting the master again") as step:
            before, started = len(traffic.acknowledged), self._scene.elapsed_seconds
            await trio.to_thread.run_sync(stage.master.start)
            seconds = self._scene.elapsed_seconds - started
            traffic.forget_delays()
            step.text = f"the master is back after {seconds:.1f} s; the producer goes on"
            await _until(
                lambda: len(traffic.acknowledged) > before, "the master takes no message after its restart"
            )
            await trio.sleep(self._traffic_seconds * 0.3)
            step.text += f", {len(traffic.acknowledged) - before:,} messages more"

    async def _verify(self) -> None:
        stage, traffic = self._scene.stage, self._scene.traffic
        async with self._step("waiting for the slave to have everything") as step:
            await self._wait_for_slave()
            step.text = "the slave has everything the master has"
        async with self._step("looking for every acknowledged message, on both") as step:
            for node in (stage.master, stage.slave):
                check(node.installation.role, await read_everything(node), traffic)
            if traffic.refused:
                raise DemoError(f"a put was refused: {traffic.refused[0]}")
            if traffic.out_of_order:
                raise DemoError("the slave handed out messages out of order")
            step.text = (
                f"all {len(traffic.acknowledged):,} acknowledged messages are on both, once, in order; "
                f"{len(traffic.unanswered)} sent into the crash got no reply and promise nothing"
            )
        async with self._step("comparing the files byte by byte") as step:
            step.text = await trio.to_thread.run_sync(_compare_files, stage)

    async def _wait_for_slave(self) -> None:
        master, slave = self._scene.stage.master, self._scene.stage.slave
        with trio.move_on_after(_PATIENCE_SECONDS):
            while True:
                ends = [
                    (await trio.to_thread.run_sync(node.ask, "topics"))["topics"][0]["end_offset"]
                    for node in (master, slave)
                ]
                if ends[0] == ends[1] and self._scene.traffic.is_settled:
                    return
                await trio.sleep(_POLL_SECONDS)
        raise DemoError(f"the slave has not caught up within {_PATIENCE_SECONDS:g} s")

    async def _watch(self) -> None:
        """Keep the figures fresh."""
        scene = self._scene
        while True:
            if scene.stage.slave.is_up:
                try:
                    scene.note_replication(
                        await trio.to_thread.run_sync(scene.stage.slave.ask, "slave-status")
                    )
                except (Failure, MetaServerError):
                    scene.is_connected = False
            self._screen.refresh()
            await trio.sleep(_POLL_SECONDS)

    @asynccontextmanager
    async def _step(self, text: str) -> AsyncIterator[Step]:
        step = Step(text)
        self._scene.steps.append(step)
        try:
            yield step
        except trio.Cancelled:
            step.state = StepState.INTERRUPTED
            step.text += ": interrupted"
            raise
        except BaseException:
            step.state = StepState.FAILED
            raise
        else:
            step.state = StepState.DONE
        finally:
            self._screen.step_ended(step)


async def _until(condition: Callable[[], bool], problem: str) -> None:
    """Wait until it is so; raises DemoError where it does not become so."""
    deadline = trio.current_time() + _PATIENCE_SECONDS
    while not condition():
        if trio.current_time() > deadline:
            raise DemoError(problem)
        await trio.sleep(_LOOK_SECONDS)


def check(role: str, found: list[tuple[int, int]], traffic: Traffic) -> None:
    """Raises DemoError where the log of a node is not what the acknowledgements promise."""
    numbers = [number for _, number in found]
    if any(number >= following for number, following in pairwise(numbers)):
        raise DemoError(f"the {role} has a message twice, or out of order")
    offsets = {number: offset for offset, number in found}
    lost = [number for number, offset in traffic.acknowledged.items() if offsets.get(number) != offset]
    if lost:
        raise DemoError(f"the {role} lacks {len(lost)} acknowledged messages, the first is number {lost[0]}")
    unknown = offsets.keys() - traffic.acknowledged.keys() - traffic.unanswered
    if unknown:
        raise DemoError(f"the {role} has {len(unknown)} messages that nobody has sent")


def _compare_files(stage: Stage) -> str:
    """Raises DemoError where master and slave differ."""
    masters, slaves = stage.segments(stage.master), stage.segments(stage.slave)
    if not masters or [path.name for path in masters] != [path.name for path in slaves]:
        raise DemoError("master and slave have different segment files")
    for mine, theirs in zip(masters, slaves, strict=True):
        if not filecmp.cmp(mine, theirs, shallow=False):
            raise DemoError(f"{mine} and {theirs} differ")
    size = sum(path.stat().st_size for path in masters)
    return f"the segment files of both are identical, byte for byte: {describe_bytes(size)}"


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
