"""How the demo looks: two panels and a list of steps on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections import deque
from enum import Enum
from typing import TYPE_CHECKING, Protocol, Self

import attrs

from metaserver.cli.output import count_of, say

if TYPE_CHECKING:
    from types import TracebackType

    from rich.console import RenderableType
    from rich.panel import Panel
    from rich.text import Text

    from metaserver.cli.demo_stage import Node, Stage
    from metaserver.cli.demo_traffic import Traffic

_BARS = "▁▂▃▄▅▆▇█"
_LAG_SAMPLES = 48
_WIDTH_MAX = 96


class StepState(Enum):
    """How far a step is."""

    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    INTERRUPTED = "interrupted"


_MARKS = {StepState.DONE: "ok  ", StepState.FAILED: "FAIL", StepState.INTERRUPTED: "    "}


@attrs.define
class Step:
    """One thing the demo does or shows."""

    text: str
    state: StepState = StepState.RUNNING


@attrs.define(eq=False)
class Scene:
    """Everything that is on the screen."""

    stage: Stage
    traffic: Traffic
    started: float = attrs.Factory(time.monotonic)
    steps: list[Step] = attrs.Factory(list)
    lag_bytes: int = 0
    lag_messages: int = 0
    lag_seconds: float = 0.0
    is_connected: bool = False
    """The slave to its master."""
    lags: deque[int] = attrs.Factory(lambda: deque(maxlen=_LAG_SAMPLES))
    """Messages behind, sampled."""

    @property
    def elapsed_seconds(self) -> float:
        """Since the beginning."""
        return time.monotonic() - self.started

    def note_replication(self, status: dict[str, object]) -> None:
        """What ``slave-status`` says now."""
        self.is_connected = bool(status["connected"])
        self.lag_bytes, self.lag_messages = int(str(status["lag_bytes"])), int(str(status["lag_messages"]))
        self.lag_seconds = float(str(status["lag_seconds"]))
        if self.is_connected:
            self.lags.append(self.lag_messages)


class Screen(Protocol):
    """Where the scene is shown."""

    def __enter__(self) -> Self:
        """Begin to show it."""
        ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Leave the last picture where it is."""
        ...

    def refresh(self) -> None:
        """Something may have changed."""
        ...

    def step_ended(self, step: Step) -> None:
        """A step is done, or has failed."""
        ...


@attrs.define(eq=False)
class PlainScreen:
    """A line for each step that ends, and one a second with the figures."""

    _scene: Scene
    _last_second: int = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        return

    def refresh(self) -> None:
        """See :class:`Screen`."""
        second = int(self._scene.elapsed_seconds)
        if second > self._last_second and self._scene.traffic.acknowledged:
            self._last_second = second
            acknowledged = f"{len(self._scene.traffic.acknowledged):,} acknowledged"
            self._print(f"     {acknowledged}; slave {slave_line(self._scene)}")

    def step_ended(self, step: Step) -> None:
        """See :class:`Screen`."""
        self._print(f"{_MARKS[step.state]} {step.text}")

    def _print(self, text: str) -> None:
        say(f"{self._scene.elapsed_seconds:5.1f} s  {text}")


class LiveScreen:
    """Panels that are drawn anew a few times a second."""

    def __init__(self, scene: Scene) -> None:
        from rich.console import Console
        from rich.live import Live
        from rich.spinner import Spinner

        console = Console(highlight=False)
        self._scene = scene
        self._width = min(console.width, _WIDTH_MAX)
        self._spinner = Spinner("dots", style="cyan")
        self._live = Live(console=console, get_renderable=self._render, refresh_per_second=12)

    def __enter__(self) -> Self:
        self._live.__enter__()
        return self

    def __exit__(self, *exception: object) -> None:
        self._live.refresh()
        self._live.__exit__(None, None, None)

    def refresh(self) -> None:
        """See :class:`Screen`; it refreshes by itself."""

    def step_ended(self, step: Step) -> None:
        """See :class:`Screen`; it is in the list."""

    def _render(self) -> RenderableType:
        from rich.console import Group
        from rich.table import Table
        from rich.text import Text

        scene = self._scene
        steps = Table.grid(padding=(0, 1))
        steps.add_column(width=1)
        steps.add_column(ratio=1)
        for step in scene.steps:
            if step.state is StepState.RUNNING:
                steps.add_row(self._spinner, Text(step.text, style="cyan"))
            elif step.state is StepState.DONE:
                steps.add_row(Text("✓", style="green"), Text(step.text))
            elif step.state is StepState.INTERRUPTED:
                steps.add_row(Text("·"), Text(step.text))
            else:
                steps.add_row(Text("✗", style="bold red"), Text(step.text, style="red"))
        return Group(self._master_panel(), self._slave_panel(), Text(), steps, Text())

    def _master_panel(self) -> Panel:
        from rich.text import Text

        return self._panel("master", Text(master_line(self._scene)), self._scene.stage.master)

    def _slave_panel(self) -> Panel:
        from rich.text import Text

        scene = self._scene
        body = Text(slave_line(scene))
        body.append(f"\n{sparkline(scene.lags):<{_LAG_SAMPLES}}", style="cyan")
        body.append(f"  behind, at most {count_of(max(scene.lags, default=0), 'message')}", style="dim")
        return self._panel("slave", body, scene.stage.slave)

    def _panel(self, role: str, body: Text, node: Node) -> Panel:
        from rich.panel import Panel

        style = {"running": "green", "killed": "red"}.get(node.state, "dim")
        where = f" · {node.address} · pid {node.pid}" if node.is_up else ""
        return Panel(
            body,
            title=f"[bold]{role}[/] · [{style}]{node.state}[/]{where}",
            title_align="left",
            border_style=style,
            width=self._width,
        )


def master_line(scene: Scene) -> str:
    """What the master has done."""
    return f"{len(scene.traffic.acknowledged):,} messages acknowledged, each on disk before its reply"


def slave_line(scene: Scene) -> str:
    """How the slave is."""
    traffic = scene.traffic
    read = f"{traffic.read_from_slave:,} read from it"
    if not scene.stage.slave.is_up:
        return read
    if not scene.is_connected:
        return f"has lost its master, goes on serving; {read}"
    delay = "" if traffic.delay_ms is None else f", {traffic.delay_ms:.1f} ms after being sent"
    return f"{count_of(scene.lag_messages, 'message')}, {scene.lag_bytes} bytes behind; {read}{delay}"


def sparkline(values: deque[int]) -> str:
    """Small bars, the highest for the greatest value."""
    top = max(values, default=0)
    if not top:
        return _BARS[0] * len(values)
    return "".join(_BARS[round(value / top * (len(_BARS) - 1))] for value in values)
