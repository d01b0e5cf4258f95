"""The console in a real browser: every page, live values, hostile messages, what only an administrator can do.

``METASERVER_SCREENSHOTS=DIR`` keeps pictures of the pages there; those of docs/console come from it.
"""

from __future__ import annotations

import os
import re
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.console.browser import Browser, require_chromium
from tests.http.http_client import ADMIN, READER, USERS, HttpClient
from tests.support import BrokerProcess, eventually, put, serving

if TYPE_CHECKING:
    from collections.abc import Iterator

TOPICS = "[topic=orders]\nnumPartitions=3\n[topic=payments]\n[topic=hostile*]\n"
PAGES = ("", "topics", "groups", "replicas", "config", "log", "stats", "process")
HOSTILE = [
    "<script>window.pwned = 1</script>",
    "<img src=x onerror='window.pwned = 1'>",
    "</bdi></td></table><svg onload=window.pwned=1>",
    "\"><a href='javascript:window.pwned=1' autofocus onfocus=window.pwned=1>x</a>",
    "{{ 7 * 7 }}{% raw %}",
    "'; DROP TABLE x; --",
    "\x1b[2J\x07\u202etxt.exe",
]


@pytest.fixture(scope="module")
def master(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BrokerProcess]:
    require_chromium()
    process = BrokerProcess(
        tmp_path_factory.mktemp("master"), topics=TOPICS, settings={"httpUsersFile": "conf/users.toml"}
    )
    users = process.base / "conf" / "users.toml"
    users.parent.mkdir(parents=True)
    users.write_text(USERS.replace('"none"', '"read"'), encoding="utf-8")
    with serving(process):
        for number in range(40):
            process.ask(put("orders", b'{"order": %d, "amount": "%d.00 EUR"}' % (number, 7 * number), 1))
        for text in HOSTILE:
            process.ask(put("hostile", text.encode(), 1))
        process.ask(put("hostile", b"\xff\xfe binary", 1))
        process.ask(put("hostile", b"long " * 2000, 1))
        process.wait_registered()
        yield process


@pytest.fixture(scope="module")
def slave(master: BrokerProcess, tmp_path_factory: pytest.TempPathFactory) -> Iterator[BrokerProcess]:
    process = BrokerProcess(
        tmp_path_factory.mktemp("slave"),
        topics=TOPICS,
        slave_of=master.port,
        slave_settings={"serverPort": 0, "dashboardHttpPort": 0, "hostName": "127.0.0.1"},
    )
    with serving(process):
        process.wait_registered()
        eventually(lambda: process.status()["replication"]["lag_bytes"] == 0, "the copy of all messages")
        yield process


@pytest.fixture(scope="module")
def shared_browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with Browser(tmp_path_factory.mktemp("chromium") / "profile") as browser:
        yield browser


@pytest.fixture
def browser(shared_browser: Browser) -> Browser:
    """Not signed in anywhere."""
    shared_browser.call("Network.clearBrowserCookies")
    shared_browser.prefer("light")
    return shared_browser


def address(broker: BrokerProcess, page: str = "") -> str:
    return f"http://127.0.0.1:{broker.status()['http_port']}/console/{page}"


def sign_in(browser: Browser, broker: BrokerProcess, token: str, page: str = "") -> None:
    browser.open(address(broker, f"login?next=/console/{page}"))
    browser.fill("#login [name=token]", token)
    browser.click("#login button")


def commit(broker: BrokerProcess, group: str) -> None:
    """A group that has come half way."""
    client = HttpClient(broker.status()["http_port"], ADMIN)
    path = f"/api/v1/groups/{group}/topics/orders/messages"
    positions = client.get(path, partition="0-0", max_messages=20).json()["positions"]
    assert client.post(f"/api/v1/groups/{group}/positions", {"positions": positions}).status == 200


def keep_picture(browser: Browser, name: str, height: int = 600) -> None:
    folder = os.environ.get("METASERVER_SCREENSHOTS")
    if folder:
        Path(folder, f"{name}.png").write_bytes(browser.screenshot(height))


def check(browser: Browser, broker: BrokerProcess) -> None:
    """Whatever is shown: no script of anybody else has run, and nothing was asked for elsewhere."""
    assert browser.evaluate("window.pwned === undefined")
    assert browser.complaints() == []
    own = f"http://127.0.0.1:{broker.status()['http_port']}/"
    assert {url for url in browser.addresses() if not url.startswith(own)} == set()


@pytest.mark.parametrize("page", PAGES)
def test_every_page_can_be_read_without_a_token(browser: Browser, master: BrokerProcess, page: str) -> None:
    browser.open(address(master, page))
    check(browser, master)
    heading = browser.evaluate("document.querySelector('h1').textContent")
    assert heading
    assert browser.evaluate("document.querySelectorAll('[aria-current=page]').length") == 1
    assert browser.evaluate("document.querySelectorAll('main form[method=post]').length") == 0


def test_the_overview_shows_the_broker_and_draws_charts(browser: Browser, master: BrokerProcess) -> None:
    browser.open(address(master))
    assert f"Master 127.0.0.1:{master.port}" in browser.text()
    assert "The broker does all of its work." in browser.text()
    # Charts appear with the first samples, and a point comes with each.
    points = "document.querySelector('[data-chart=puts_per_second] polyline').getAttribute('points')"
    browser.wait(f"({points} || '').split(' ').length > 2")
    assert browser.evaluate("document.querySelector('[data-chart=connections] output').textContent")
    check(browser, master)


def test_values_change_while_messages_flow(browser: Browser, master: BrokerProcess) -> None:
    browser.open(address(master))
    before = browser.evaluate("document.getElementById('messages').textContent")
    stop = threading.Event()

    def flow() -> None:
        with master.connect() as wire:
            while not stop.wait(0.01):
                wire.ask(put("payments", b"x" * 100, 1))

    flowing = threading.Thread(target=flow)
    flowing.start()
    try:
        # The page was not loaded again: what is marked stays.
        browser.evaluate("document.body.dataset.marked = 1; 0")
        browser.wait(f"document.getElementById('messages').textContent !== {before!r}")
        browser.wait(
            "parseFloat(document.querySelector('[data-chart=puts_per_second] output').textContent) > 0"
        )
        assert browser.evaluate("document.body.dataset.marked") == "1"
        points = "document.querySelector('[data-chart=puts_per_second] polyline').getAttribute('points')"
        browser.wait(f"{points}.split(' ').length > 4")
        keep_picture(browser, "overview", 460)
        browser.open(address(master, "topics/payments"))
        browser.wait(
            "parseFloat(document.querySelector('[data-chart=messages_per_second] output').textContent) > 0"
        )
    finally:
        stop.set()
        flowing.join()
    check(browser, master)


def test_hostile_messages_are_shown_as_they_are(browser: Browser, master: BrokerProcess) -> None:
    browser.open(address(master, "topics/hostile/messages"))
    shown = browser.evaluate("[...document.querySelectorAll('bdi.payload')].map(one => one.textContent)")
    assert shown[:5] == HOSTILE[:5]
    assert shown[6] == "␛[2J␇\\u{202e}txt.exe"
    assert shown[7] == "ff fe 20 62 69 6e 61 72 79"
    assert shown[8].startswith("long long")
    assert shown[8].endswith("…")
    assert browser.evaluate("document.querySelectorAll('main script, main img, main svg').length") == 0
    check(browser, master)
    keep_picture(browser, "messages", 760)


def test_hostile_questions_are_harmless_too(browser: Browser, master: BrokerProcess) -> None:
    for page in ("topics?q=", "log?q=", "stats?item=", "topics/hostile/messages?text=", "groups?q="):
        browser.open(address(master, f"{page}%22%3E%3Cscript%3Ewindow.pwned=1%3C/script%3E"))
        check(browser, master)
    browser.open(address(master, "topics/%3Cscript%3Ewindow.pwned=1%3C%2Fscript%3E"))
    assert browser.evaluate("window.pwned === undefined")
    assert "Not Found" in browser.text()


def test_a_script_in_a_page_would_not_run(browser: Browser, master: BrokerProcess) -> None:
    """The second wall: even where something slipped through the templates, the policy holds."""
    browser.open(address(master))
    browser.evaluate(
        "(() => { const made = document.createElement('div');"
        " made.innerHTML = '<img src=x onerror=\"window.pwned = 1\">'; document.body.append(made); })()"
    )
    browser.wait("document.querySelector('img[src=x]').complete")
    assert browser.evaluate("window.pwned === undefined")
    assert any("Content Security Policy" in complaint for complaint in browser.complaints())


def test_messages_are_searched(browser: Browser, master: BrokerProcess) -> None:
    browser.open(address(master, "topics/orders/messages"))
    rows = "document.querySelectorAll('.messages tbody tr').length"
    assert browser.evaluate(rows) == 25
    browser.click("a[rel=prev]")
    assert browser.evaluate(rows) == 15
    assert '{"order": 0,' in browser.text()
    browser.press("]", leads_on=True)
    assert '{"order": 15,' in browser.text()
    browser.fill("[name=from]", "")
    browser.fill("[name=text]", '"order": 7,')
    browser.click(".search button")
    assert browser.evaluate(rows) == 1
    found = browser.evaluate("document.querySelector('.messages tbody tr').innerText")
    assert '"49.00 EUR"' in found
    offset, _time, message_id = re.split(r"\s+", found)[:3]
    browser.open(address(master, f"topics/orders/messages?id={message_id}"))
    assert browser.evaluate(rows) == 1
    browser.open(address(master, f"topics/orders/messages?from={offset}"))
    assert browser.evaluate(rows) == 25
    browser.open(address(master, "topics/orders/messages?from=-1h"))
    assert '{"order": 0,' in browser.text()
    browser.open(address(master, "topics/orders/messages?from=3"))
    assert "no message begins at offset 3" in browser.text()
    check(browser, master)


def test_a_group_is_moved_by_an_administrator_alone(browser: Browser, master: BrokerProcess) -> None:
    commit(master, "readers")
    browser.open(address(master, "groups/readers"))
    assert "20 messages" in browser.text()
    assert browser.evaluate("document.getElementById('move')") is None
    sign_in(browser, master, "a wrong token")
    assert "the token is not known here" in browser.text()
    sign_in(browser, master, READER, "groups/readers")
    assert "eyes (read)" in browser.text()
    assert browser.evaluate("document.getElementById('move')") is None
    sign_in(browser, master, ADMIN, "groups/readers")
    browser.fill("#move [name=to]", "start")
    browser.fill("#move [name=partition]", "0-0")
    browser.click("#move button")
    assert "What would change" in browser.text()
    keep_picture(browser, "group", 760)
    client = HttpClient(master.status()["http_port"], ADMIN)

    def lag() -> int:
        parts = client.get("/api/v1/groups/readers").json()["partitions"]
        return int(next(part for part in parts if part["partition"] == "0-0")["lag_messages"])

    assert lag() == 20
    browser.click("#do")
    assert "Moved" in browser.text()
    assert lag() == 40
    browser.click("#skip button")
    browser.click("#do")
    assert lag() == 0
    check(browser, master)


def test_a_form_without_the_word_of_our_pages_does_nothing(browser: Browser, master: BrokerProcess) -> None:
    sign_in(browser, master, ADMIN, "config")
    browser.evaluate("document.querySelector('#reload [name=csrf]').value = 'x'; 0")
    browser.click("#reload button")
    assert "the form is too old, or not ours" in browser.text()
    browser.open(address(master, "config"))
    browser.click("#reload button")
    assert "The configuration was read again" in browser.text()
    browser.click(".who button")
    assert "Sign in" in browser.text()
    assert browser.evaluate("document.cookie") == ""


def test_replicas_and_configurations_are_compared(
    browser: Browser, master: BrokerProcess, slave: BrokerProcess
) -> None:
    browser.open(address(master, "replicas"))
    browser.wait("document.body.innerText.includes('connected')")
    assert "slave 0" in browser.text()
    keep_picture(browser, "replicas", 470)
    browser.open(address(slave, "replicas"))
    assert f"127.0.0.1:{master.port}" in browser.text()
    assert "orders 0" in browser.text()
    check(browser, slave)
    browser.open(address(master, f"config?compare=127.0.0.1:{slave.port}"))
    assert "-httpUsersFile=conf/users.toml" in browser.text()
    browser.open(address(master, "config?compare=127.0.0.1:1"))
    assert "is no replica of this broker" in browser.text()
    for page in PAGES:
        browser.open(address(slave, page))
        check(browser, slave)


def test_keys(browser: Browser, master: BrokerProcess) -> None:
    browser.open(address(master))
    browser.press("2", leads_on=True)
    assert browser.evaluate("location.pathname") == "/console/topics"
    browser.press("/")
    assert browser.evaluate("document.activeElement.name") == "q"
    browser.press("3")
    assert browser.evaluate("location.pathname") == "/console/topics"
    browser.press("Escape")
    browser.press("p")
    assert browser.evaluate("document.getElementById('pause').textContent") == "go on"
    assert browser.evaluate("document.querySelector('.skip').hash") == "#main"


def test_light_and_dark(browser: Browser, master: BrokerProcess) -> None:
    browser.open(address(master, "topics"))
    colour = "getComputedStyle(document.body).backgroundColor"
    light = browser.evaluate(colour)
    keep_picture(browser, "topics", 330)
    browser.prefer("dark")
    assert browser.evaluate(colour) != light
    keep_picture(browser, "topics-dark", 330)


def test_pages_work_without_script(browser: Browser, master: BrokerProcess) -> None:
    browser.call("Emulation.setScriptExecutionDisabled", value=True)
    try:
        browser.open(address(master, "topics/orders/messages"))
    finally:
        browser.call("Emulation.setScriptExecutionDisabled", value=False)
    assert '{"order": 39,' in browser.text()
