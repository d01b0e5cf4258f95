from __future__ import annotations

import calendar
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metaserver.config import next_fire
from metaserver.config.cron import CHARACTERS_MAX, check_cron
from metaserver.errors import ConfigError

BERLIN = ZoneInfo("Europe/Berlin")


def berlin_offset(at: float) -> float:
    offset = datetime.fromtimestamp(at, BERLIN).utcoffset()
    assert offset is not None
    return offset.total_seconds()


def utc(text: str) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()


def fires(expression: str, after: str, count: int = 3) -> list[str]:
    found, at = [], utc(after)
    for _ in range(count):
        next_at = next_fire(expression, at, utc_offset_seconds=lambda _: 0)
        if next_at is None:
            break
        found.append(f"{datetime.fromtimestamp(next_at, UTC):%Y-%m-%d %H:%M:%S %a}")
        at = next_at
    return found


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("0 0 6,18 * * ?", ["2024-02-28 18:00:00 Wed", "2024-02-29 06:00:00 Thu", "2024-02-29 18:00:00 Thu"]),
        ("30 * * * * ?", ["2024-02-28 12:00:30 Wed", "2024-02-28 12:01:30 Wed", "2024-02-28 12:02:30 Wed"]),
        (
            "0/20 59 23 * * ?",
            ["2024-02-28 23:59:00 Wed", "2024-02-28 23:59:20 Wed", "2024-02-28 23:59:40 Wed"],
        ),
        ("0 5/25 * * * ?", ["2024-02-28 12:05:00 Wed", "2024-02-28 12:30:00 Wed", "2024-02-28 12:55:00 Wed"]),
        ("0 /30 13 * * ?", ["2024-02-28 13:00:00 Wed", "2024-02-28 13:30:00 Wed", "2024-02-29 13:00:00 Thu"]),
        ("0 0 3 ? * 1", ["2024-03-03 03:00:00 Sun", "2024-03-10 03:00:00 Sun", "2024-03-17 03:00:00 Sun"]),
        ("0 0 3 ? * 7", ["2024-03-02 03:00:00 Sat", "2024-03-09 03:00:00 Sat", "2024-03-16 03:00:00 Sat"]),
        ("0 0 3 ? * sun", ["2024-03-03 03:00:00 Sun", "2024-03-10 03:00:00 Sun", "2024-03-17 03:00:00 Sun"]),
        (
            "0 0 3 ? * FRI-MON",
            ["2024-03-01 03:00:00 Fri", "2024-03-02 03:00:00 Sat", "2024-03-03 03:00:00 Sun"],
        ),
        (
            "0 0 3 ? * 2-6/2",
            ["2024-03-01 03:00:00 Fri", "2024-03-04 03:00:00 Mon", "2024-03-06 03:00:00 Wed"],
        ),
        (
            "0 0 22-2/2 * * ?",
            ["2024-02-28 22:00:00 Wed", "2024-02-29 00:00:00 Thu", "2024-02-29 02:00:00 Thu"],
        ),
        ("0 0 0 L * ?", ["2024-02-29 00:00:00 Thu", "2024-03-31 00:00:00 Sun", "2024-04-30 00:00:00 Tue"]),
        ("0 0 0 ? * 6L", ["2024-03-29 00:00:00 Fri", "2024-04-26 00:00:00 Fri", "2024-05-31 00:00:00 Fri"]),
        ("0 0 0 ? * L", ["2024-03-02 00:00:00 Sat", "2024-03-09 00:00:00 Sat", "2024-03-16 00:00:00 Sat"]),
        ("0 0 0 ? * 6#3", ["2024-03-15 00:00:00 Fri", "2024-04-19 00:00:00 Fri", "2024-05-17 00:00:00 Fri"]),
        (
            "0 0 0 ? * SUN#1",
            ["2024-03-03 00:00:00 Sun", "2024-04-07 00:00:00 Sun", "2024-05-05 00:00:00 Sun"],
        ),
        (
            "0 0 0 1 JAN,jul ?",
            ["2024-07-01 00:00:00 Mon", "2025-01-01 00:00:00 Wed", "2025-07-01 00:00:00 Tue"],
        ),
        (
            "0 0 0 1 NOV-FEB/2 ?",
            ["2024-11-01 00:00:00 Fri", "2025-01-01 00:00:00 Wed", "2025-11-01 00:00:00 Sat"],
        ),
        ("0 0 0 29 2 ?", ["2024-02-29 00:00:00 Thu", "2028-02-29 00:00:00 Tue", "2032-02-29 00:00:00 Sun"]),
        ("0 0 0 1 1 ? 2026-2027", ["2026-01-01 00:00:00 Thu", "2027-01-01 00:00:00 Fri"]),
        ("0 0 0 1 1 ? 2099", ["2099-01-01 00:00:00 Thu"]),
        ("0 0 0 1 1 ? 2020", []),
        ("* * * * * ? *", ["2024-02-28 12:00:01 Wed", "2024-02-28 12:00:02 Wed", "2024-02-28 12:00:03 Wed"]),
    ],
)
def test_fire_times(expression: str, expected: list[str]) -> None:
    assert fires(expression, "2024-02-28T12:00:00") == expected
    assert check_cron(f"  {expression} ") == expression


def test_fires_strictly_later_also_between_two_seconds() -> None:
    def at(after: float) -> float | None:
        return next_fire("10 0 0 * * ?", after, utc_offset_seconds=lambda _: 0)

    assert at(9.5) == 10.0
    assert at(10.0) == 86410.0
    assert at(10.25) == 86410.0


@pytest.mark.parametrize(
    ("expression", "problem"),
    [
        ("", "has 0 fields"),
        ("0 6 * * *", "has 5 fields"),
        ("0 0 6 * * ? * *", "has 8 fields"),
        ("0 0 6 * * *", "exactly one of day of month and day of week must be ?"),
        ("0 0 6 ? * ?", "exactly one"),
        ("60 0 6 * * ?", "'60' is no second"),
        ("0 60 6 * * ?", "'60' is no minute"),
        ("0 0 24 * * ?", "'24' is no hour"),
        ("0 0 6 0 * ?", "'0' is no day of month"),
        ("0 0 6 32 * ?", "'32' is no day of month"),
        ("0 0 6 * 13 ?", "'13' is no month; 1 to 12 or JAN to DEC are"),
        ("0 0 6 ? * 0", "'0' is no day of week; 1 to 7 or SUN to SAT are"),
        ("0 0 6 ? * 8", "'8' is no day of week"),
        ("0 0 6 ? * SO", "'SO' is no day of week"),
        ("0 0 6 * * ? 1969", "'1969' is no year"),
        ("0 0 6 * * ? 2027-2026", "run backwards"),
        ("0 0 6 30,31 2 ?", "never fires"),
        ("0 0 6 31 4,6 ?", "never fires"),
        ("0 0 6 15W * ?", "no W"),
        ("0 0 6 LW * ?", "no W"),
        ("0 0 6 L-3 * ?", "no offset"),
        ("0 0 6 ? * 6#6", "not understood"),
        ("0 0 6 ? * 6L,2", "'6L' is no day of week"),
        ("0 0 6 ? * 8L", "'8L' is no day of week"),
        ("0 0 6 ? * XXXL", "'XXX' is no day of week"),
        ("0 0/0 6 * * ?", "step"),
        ("0 0/61 6 * * ?", "step"),
        ("0 ? 6 * * ?", "'?' is not understood as minute"),
        ("0 *-5 6 * * ?", "not understood"),
        ("0 1- 6 * * ?", "not understood"),
        ("0 1,,2 6 * * ?", "not understood"),
        ("0 \u0661 6 * * ?", "not understood"),
        ("x" * (CHARACTERS_MAX + 1), "longer than"),
    ],
)
def test_no_cron(expression: str, problem: str) -> None:
    with pytest.raises(ConfigError) as caught:
        check_cron(expression)
    assert problem in str(caught.value)
    with pytest.raises(ConfigError):
        next_fire(expression, 0.0, utc_offset_seconds=lambda _: 0)


def berlin(text: str, *, fold: int = 0) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=BERLIN, fold=fold).timestamp()


def test_local_time_is_meant() -> None:
    assert next_fire("0 0 6 * * ?", berlin("2024-07-01T05:00"), utc_offset_seconds=berlin_offset) == berlin(
        "2024-07-01T06:00"
    )
    assert next_fire("0 0 6 * * ?", berlin("2024-07-01T06:00"), utc_offset_seconds=berlin_offset) == berlin(
        "2024-07-02T06:00"
    )


def test_the_local_hour_stays_over_both_changes() -> None:
    for day_before, day in (("2024-03-30", "2024-03-31"), ("2024-10-26", "2024-10-27")):
        found = next_fire("0 0 6 * * ?", berlin(f"{day_before}T07:00"), utc_offset_seconds=berlin_offset)
        assert found == berlin(f"{day}T06:00")


def test_a_time_that_is_skipped_fires_after_the_jump() -> None:
    found = next_fire("0 30 2 * * ?", berlin("2024-03-30T12:00"), utc_offset_seconds=berlin_offset)
    assert found == berlin("2024-03-31T03:30")
    assert next_fire("0 30 2 * * ?", found, utc_offset_seconds=berlin_offset) == berlin("2024-04-01T02:30")


def test_a_time_that_comes_twice_fires_once() -> None:
    first = next_fire("0 30 2 * * ?", berlin("2024-10-26T12:00"), utc_offset_seconds=berlin_offset)
    assert first == berlin("2024-10-27T02:30", fold=0)
    assert next_fire("0 30 2 * * ?", first, utc_offset_seconds=berlin_offset) == berlin("2024-10-28T02:30")


@settings(max_examples=60)
@given(
    st.sampled_from(["0 0 * * * ?", "0 0/7 2,3 * * ?", "30 59 1-4 * * ?", "0 30 2 ? * SUN"]),
    st.sampled_from(["2024-03-31T00:00", "2024-10-27T00:00"]),
    st.floats(-7200, 5 * 3600),
)
def test_the_next_time_is_always_later_also_around_the_changes(
    expression: str, day: str, shift: float
) -> None:
    after = berlin(day) + shift
    found = next_fire(expression, after, utc_offset_seconds=berlin_offset)
    assert found is not None
    assert found > after


_NUMBER_FIELD = {
    "second": (0, 59),
    "minute": (0, 59),
    "hour": (0, 23),
    "day": (1, 31),
    "month": (1, 12),
    "weekday": (1, 7),
}


def _field(name: str) -> st.SearchStrategy[str]:
    minimum, maximum = _NUMBER_FIELD[name]
    number = st.integers(minimum, maximum)
    return st.one_of(
        st.just("*"),
        number.map(str),
        st.lists(number, min_size=1, max_size=4).map(lambda found: ",".join(map(str, found))),
        st.tuples(number, number).map(lambda pair: f"{pair[0]}-{pair[1]}"),
        st.tuples(number, st.integers(1, 5)).map(lambda pair: f"{pair[0]}/{pair[1]}"),
    )


def _names(text: str, name: str, value: int) -> bool:
    """A slow reading of a field, for comparison."""
    minimum, maximum = _NUMBER_FIELD[name]
    if text in {"*", "?"}:
        return True
    for element in text.split(","):
        bounds, _, step = element.partition("/")
        first, dash, last = bounds.partition("-")
        current = int(first)
        end = int(last) if dash else (maximum if step else current)
        while True:
            if current == value and (not step or (value - int(first)) % int(step) == 0):
                return True
            if current == end:
                break
            current = current + 1 if current < maximum else minimum
    return False


@settings(max_examples=60, deadline=None)
@given(
    second=_field("second"),
    minute=_field("minute"),
    hour=_field("hour"),
    month=_field("month"),
    day=st.one_of(
        _field("day").map(lambda text: (text, "?")), _field("weekday").map(lambda text: ("?", text))
    ),
    after=st.integers(0, 2 * 10**9),
)
def test_fire_times_agree_with_a_slow_reading(
    second: str, minute: str, hour: str, month: str, day: tuple[str, str], after: int
) -> None:
    expression = f"{second} {minute} {hour} {day[0]} {month} {day[1]}"

    def is_day(at: datetime) -> bool:
        sunday_first = at.isoweekday() % 7 + 1
        return (
            _names(month, "month", at.month)
            and _names(day[0], "day", at.day)
            and _names(day[1], "weekday", sunday_first)
        )

    def is_time(at: datetime) -> bool:
        return (
            _names(hour, "hour", at.hour)
            and _names(minute, "minute", at.minute)
            and _names(second, "second", at.second)
        )

    try:
        found = next_fire(expression, float(after), utc_offset_seconds=lambda _: 0)
    except ConfigError as error:
        said = str(error)
        assert "never fires" in said
        for month_number in range(1, 13):
            for day_number in range(1, calendar.monthrange(2024, month_number)[1] + 1):
                assert not is_day(datetime(2024, month_number, day_number, tzinfo=UTC))
        return
    assert found is not None
    start, fire = datetime.fromtimestamp(after, UTC), datetime.fromtimestamp(found, UTC)
    assert fire > start
    assert is_day(fire)
    assert is_time(fire)
    # No day in between is missed, and on the day itself no second in the hour before.
    between = start.replace(hour=0, minute=0, second=0) + timedelta(days=1)
    while between.date() < fire.date():
        assert not is_day(between)
        between += timedelta(days=1)
    earlier = max(
        start + timedelta(seconds=1), fire.replace(hour=0, minute=0, second=0), fire - timedelta(hours=1)
    )
    while earlier < fire:
        assert not is_time(earlier)
        earlier += timedelta(seconds=1)


@given(st.one_of(st.text(), st.text(st.sampled_from("0159*?/-,L#W SUNMO"))))
def test_any_text_is_checked_to_a_value_or_a_problem(text: str) -> None:
    try:
        check_cron(text)
    except ConfigError as error:
        said = error.problems
        assert len(said) == 1


def test_checking_does_not_import_croniter() -> None:
    code = (
        "import sys; from metaserver.config.cron import check_cron; check_cron('0 0 6,18 * * ?');"
        "sys.exit('croniter' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
