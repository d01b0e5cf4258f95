"""Quartz cron expressions (``deleteWhen``): checked here, searched by croniter.

Six or seven fields: second, minute, hour, day of month, month, day of week, and a year that may be left out.
What croniter does otherwise is translated: Quartz has the seconds first and Sunday = 1, croniter has them
behind the other five and Sunday = 0; one of the two day fields is ``?``; ranges may run over the end
(``FRI-MON``).

Not taken: ``W`` (nearest weekday) and ``L-n`` in the day of month. The answer names them.
"""

from __future__ import annotations

import functools
import re
from typing import TYPE_CHECKING

import attrs

from metaserver.config.text import BLANKS, excerpt, wrong
from metaserver.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable

CHARACTERS_MAX = 500

_MONTHS = ("JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC")
_WEEKDAYS = ("SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT")
_MONTH_DAYS = (31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)

_YEARS_AHEAD_MAX = 130
"""The search ends here; no year field reaches further."""

_ELEMENT = re.compile(r"(?P<first>\*|\w+)(?:-(?P<last>\w+))?(?:/(?P<step>\d+))?", re.ASCII)
_LAST_WEEKDAY = re.compile(r"(?P<day>[1-7]|[A-Z]{3})L", re.ASCII)
_NTH_WEEKDAY = re.compile(r"(?P<day>[1-7]|[A-Z]{3})#(?P<week>[1-5])", re.ASCII)


@attrs.frozen
class _Field:
    name: str
    minimum: int
    maximum: int
    words: tuple[str, ...] = ()
    """Names of the values, from the minimum upwards."""

    def value(self, text: str) -> int:
        """The number, or the number that a name stands for."""
        if text in self.words:
            return self.minimum + self.words.index(text)
        if not text.isdigit() or not self.minimum <= int(text) <= self.maximum:
            words = f" or {self.words[0]} to {self.words[-1]}" if self.words else ""
            raise wrong(f"{excerpt(text)} is no {self.name}; {self.minimum} to {self.maximum}{words} are")
        return int(text)


_SECOND = _Field("second", 0, 59)
_MINUTE = _Field("minute", 0, 59)
_HOUR = _Field("hour", 0, 23)
_DAY = _Field("day of month", 1, 31)
_MONTH = _Field("month", 1, 12, _MONTHS)
_WEEKDAY = _Field("day of week", 1, 7, _WEEKDAYS)
_YEAR = _Field("year", 1970, 2099)


def check_cron(expression: str) -> str:
    """The expression, trimmed. Raises ConfigError if Quartz would not take it, or if it can never fire."""
    _translate(expression)
    return expression.strip(BLANKS)


def next_fire(
    expression: str, after_seconds: float, *, utc_offset_seconds: Callable[[float], float]
) -> float | None:
    """The first time later than `after_seconds` that the expression names, or None if there is none left.

    Times are seconds of the epoch. The expression is read in local time; `utc_offset_seconds` gives how far
    the local clock is ahead of UTC at an instant (the caller owns the clock:
    ``lambda at: time.localtime(at).tm_gmtoff``). A time that the clock skips in spring fires as much later as
    the clock jumps; one that comes twice in autumn fires the first time only.

    Raises ConfigError if the expression cannot be used.
    """
    translated = _translate(expression)
    from croniter import CroniterBadDateError, croniter  # noqa: PLC0415 - slow to import, and not needed to start

    offset = utc_offset_seconds(after_seconds)
    try:
        local: float = croniter(
            translated, after_seconds + offset, max_years_between_matches=_YEARS_AHEAD_MAX
        ).get_next(float)
    except CroniterBadDateError:
        return None
    before_change = local - offset
    after_change = local - utc_offset_seconds(before_change)
    if utc_offset_seconds(after_change) == local - after_change:
        return after_change
    return before_change


@functools.lru_cache(maxsize=256)
def _translate(expression: str) -> str:
    """The expression in croniter's order and counting, every set of values written out."""
    if len(expression) > CHARACTERS_MAX:
        raise wrong(f"is longer than a cron expression may be ({CHARACTERS_MAX} characters)")
    fields = expression.upper().split()
    if len(fields) not in {6, 7}:
        raise wrong(
            f"{excerpt(expression)} has {len(fields)} fields; a Quartz cron expression has six or seven: "
            "second minute hour day-of-month month day-of-week [year]"
        )
    try:
        return _translate_fields(fields)
    except ConfigError as error:
        raise ConfigError(tuple(f"{excerpt(expression)}: {problem}" for problem in error.problems)) from None


def _translate_fields(fields: list[str]) -> str:
    second, minute, hour, day, month, weekday, *years = fields
    if (day == "?") == (weekday == "?"):
        raise wrong("exactly one of day of month and day of week must be ?")
    months = _values(month, _MONTH)
    words = [
        _written(_values(minute, _MINUTE), _MINUTE),
        _written(_values(hour, _HOUR), _HOUR),
        _days(day, months),
        _written(months, _MONTH),
        _weekdays(weekday),
        _written(_values(second, _SECOND), _SECOND),
    ]
    words += [_written(_values(year, _YEAR), _YEAR) for year in years]
    return " ".join(words)


def _days(text: str, months: set[int]) -> str:
    if text == "?":
        return "*"
    if text == "L":
        return "l"
    if "W" in text or "L" in text:
        raise wrong("in the day of month only L alone is supported, no W and no offset or list with L")
    days = _values(text, _DAY)
    if min(days) > max(_MONTH_DAYS[month - 1] for month in months):
        raise wrong("never fires: no month of it has such a day")
    return _written(days, _DAY)


def _weekdays(text: str) -> str:
    if text == "?":
        return "*"
    if text == "L":
        text = "SAT"
    if (last := _LAST_WEEKDAY.fullmatch(text)) is not None:
        return f"l{_WEEKDAY.value(last['day']) - 1}"
    if (nth := _NTH_WEEKDAY.fullmatch(text)) is not None:
        return f"{_WEEKDAY.value(nth['day']) - 1}#{nth['week']}"
    days = _values(text, _WEEKDAY)
    return _written({day - 1 for day in days}, _Field(_WEEKDAY.name, 0, 6))


def _values(text: str, field: _Field) -> set[int]:
    """Every value that a field names."""
    return set().union(*(_element_values(element, field) for element in text.split(",")))


def _element_values(text: str, field: _Field) -> set[int]:
    """The values of ``*``, ``a``, ``a-b``, ``a/step``, ``a-b/step`` or ``*/step``."""
    found = _ELEMENT.fullmatch(f"*{text}" if text.startswith("/") else text)
    if found is None or (found["first"] == "*" and found["last"] is not None):
        raise wrong(f"{excerpt(text)} is not understood as {field.name}")
    size = field.maximum - field.minimum + 1
    step = int(found["step"] or 1)
    if not 1 <= step <= size:
        raise wrong(f"the step of {excerpt(text)} must be 1 to {size}")
    first = field.minimum if found["first"] == "*" else field.value(found["first"])
    if found["last"] is not None:
        last = field.value(found["last"])
    else:
        last = field.maximum if found["first"] == "*" or found["step"] else first
    if last < first:
        if field is _YEAR:
            raise wrong(f"the years {excerpt(text)} run backwards")
        last += size
    return {(value - field.minimum) % size + field.minimum for value in range(first, last + 1, step)}


def _written(values: set[int], field: _Field) -> str:
    if len(values) == field.maximum - field.minimum + 1:
        return "*"
    return ",".join(map(str, sorted(values)))
