"""A real browser without a screen: Debian's chromium, driven by its DevTools protocol over two pipes."""

from __future__ import annotations

import base64
import fcntl
import json
import os
import select
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Self

import attrs
import pytest

from tests.support import WAIT_SECONDS_MAX

_FLAGS = (
    "--headless=new",
    "--no-sandbox",  # It shows pages of ours, and the tests may run as root.
    "--remote-debugging-pipe",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-extensions",
    "--hide-scrollbars",
    # Nothing leaves this machine, whatever a page or the browser itself wants.
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1, EXCLUDE localhost",
    "--proxy-server=direct://",
)
_START_SECONDS_MAX = 60.0


def require_chromium() -> str:
    """Install the package where we may; else leave the test out, and say what is missing."""
    found = shutil.which("chromium") or _install()
    if found is None:
        pytest.skip("there is no chromium here: it is in Debian's package chromium")
    return found


def _install() -> str | None:
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        return None
    with (Path(tempfile.gettempdir()) / "metaserver-tests-apt.lock").open("w", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if (found := shutil.which("chromium")) is not None:
            return found
        sys.__stderr__ and sys.__stderr__.write("\ninstalling Debian's package chromium for the tests\n")
        for command in (["update", "-q"], ["install", "-y", "-q", "--no-install-recommends", "chromium"]):
            subprocess.run(
                ["apt-get", *command], check=False, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
    return shutil.which("chromium")


@attrs.define(eq=False)
class Browser:
    """One process, one tab."""

    _profile: Path
    _process: subprocess.Popen[bytes] | None = None
    _sending: int = -1
    _receiving: int = -1
    _held: bytearray = attrs.Factory(bytearray)
    _last: int = 0
    _session: str | None = None
    events: list[dict[str, Any]] = attrs.Factory(list)
    """All that the browser has told without being asked."""

    def __enter__(self) -> Self:
        """Start it."""
        command = require_chromium()
        ours, self._receiving = os.pipe(), -1
        theirs = os.pipe()
        self._sending, self._receiving = ours[1], theirs[0]
        # Descriptors 3 and 4 of the browser are where it is told and answers (dash knows one digit only).
        script = f'exec "$0" "$@" 3<&{ours[0]} 4>&{theirs[1]}'
        arguments = [*_FLAGS, f"--user-data-dir={self._profile}", "about:blank"]
        with (self._profile.parent / "chromium.log").open("wb") as log:
            self._process = subprocess.Popen(
                ["/bin/bash", "-c", script, command, *arguments],
                pass_fds=(ours[0], theirs[1]),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        os.close(ours[0])
        os.close(theirs[1])
        try:
            self._open_tab()
        except BaseException:
            self.__exit__()
            raise
        return self

    def _open_tab(self) -> None:
        target = self.call("Target.createTarget", url="about:blank", seconds=_START_SECONDS_MAX)["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")
        self.size(1280, 900)

    def __exit__(self, *_exception: object) -> None:
        os.close(self._sending)
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(WAIT_SECONDS_MAX)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        os.close(self._receiving)

    def call(self, method: str, seconds: float = WAIT_SECONDS_MAX, **parameters: Any) -> dict[str, Any]:  # noqa: ANN401 - JSON
        """One command of the protocol and its result."""
        self._last += 1
        number = self._last
        message: dict[str, Any] = {"id": number, "method": method, "params": parameters}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._sending, json.dumps(message).encode() + b"\0")
        deadline = time.monotonic() + seconds
        while True:
            reply = self._receive(deadline, method)
            if reply.get("id") == number:
                assert "error" not in reply, reply
                result: dict[str, Any] = reply["result"]
                return result
            self.events.append(reply)

    def _receive(self, deadline: float, what: str) -> dict[str, Any]:
        while (end := self._held.find(b"\0")) < 0:
            left = deadline - time.monotonic()
            assert left > 0, f"the browser does not answer {what}"
            if select.select([self._receiving], [], [], left)[0]:
                data = os.read(self._receiving, 1 << 20)
                assert data, "the browser has ended"
                self._held += data
        message: dict[str, Any] = json.loads(self._held[:end])
        del self._held[: end + 1]
        return message

    # What a person does and sees.

    def open(self, url: str) -> None:
        """Go there; returns when the page is loaded."""
        self._loading(lambda: self.call("Page.navigate", url=url))

    def _loading(self, act: Any) -> None:  # noqa: ANN401 - whatever it returns
        """Do something that leads to another page, and wait for that."""
        del self.events[:]
        act()
        deadline = time.monotonic() + WAIT_SECONDS_MAX
        while not any(event.get("method") == "Page.loadEventFired" for event in self.events):
            self.events.append(self._receive(deadline, "with a page"))

    def evaluate(self, script: str) -> Any:  # noqa: ANN401 - JSON
        """The value of an expression in the page."""
        answer = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def wait(self, script: str) -> None:
        """Until the expression is true."""
        deadline = time.monotonic() + WAIT_SECONDS_MAX
        while not self.evaluate(f"Boolean({script})"):
            assert time.monotonic() < deadline, f"it did not become true: {script}\n{self.text()[:2000]}"
            time.sleep(0.05)

    def text(self) -> str:
        """What the page shows."""
        return str(self.evaluate("document.body.innerText"))

    def click(self, selector: str) -> None:
        """A link or button that leads to another page."""
        self._loading(lambda: self.evaluate(f"document.querySelector({json.dumps(selector)}).click()"))

    def fill(self, selector: str, text: str) -> None:
        """Type into a field."""
        self.evaluate(f"document.querySelector({json.dumps(selector)}).value = {json.dumps(text)}; 0")

    def press(self, key: str, *, leads_on: bool = False) -> None:
        """One key; ``leads_on``: to another page."""

        def act() -> None:
            for kind in ("keyDown", "keyUp"):
                text: dict[str, Any] = {"text": key} if len(key) == 1 and kind == "keyDown" else {}
                self.call("Input.dispatchKeyEvent", type=kind, key=key, **text)

        if leads_on:
            self._loading(act)
        else:
            act()

    def size(self, width: int, height: int) -> None:
        """Of the window."""
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )

    def prefer(self, scheme: str) -> None:
        """``light`` or ``dark``."""
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])

    def screenshot(self, height: int) -> bytes:
        """A PNG of the upper part of what is in the window."""
        clip = {"x": 0, "y": 0, "width": 1280, "height": height, "scale": 0.75}
        return base64.b64decode(self.call("Page.captureScreenshot", format="png", clip=clip)["data"])

    def complaints(self) -> list[str]:
        """What the browser found wrong with the page: errors of scripts, what the policy has blocked."""
        self.evaluate("0")  # What has been told before that is here now.
        found = []
        for event in self.events:
            parameters = event.get("params", {})
            if event.get("method") == "Runtime.exceptionThrown":
                found.append(str(parameters["exceptionDetails"]))
            elif event.get("method") == "Log.entryAdded" and parameters["entry"]["level"] == "error":
                found.append(str(parameters["entry"]))
            elif event.get("method") == "Page.javascriptDialogOpening":
                found.append(f"a dialog: {parameters['message']}")
        return found

    def addresses(self) -> set[str]:
        """Everything that the page has asked for."""
        return {
            event["params"]["request"]["url"]
            for event in self.events
            if event.get("method") == "Network.requestWillBeSent"
        }
