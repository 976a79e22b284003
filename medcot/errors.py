"""The project's own errors: one line of place, cause, value and remedy, and a defined exit code."""

from __future__ import annotations

import unicodedata
from functools import partial

MAX_VALUE_CHARS = 120


class MedcotError(Exception):
    """An expected failure that a user can act on.

    place   where: a file, `file:row`, or `params.yaml: section.key`
    what    the cause, a clause without a full stop
    remedy  what to do about it
    got     the offending value, shortened to one line; leave it out where there is none
    """

    exit_code = 4

    def __init__(self, place: str, what: str, remedy: str, *, got: object = None) -> None:
        self.place, self.what, self.remedy, self.got = place, what, remedy, got
        value = "" if got is None else f", got {one_line(got)}"
        super().__init__(printable(f"{place}: {what}{value}; {remedy}"))

    def __reduce__(self) -> tuple[object, tuple[str, str, str]]:
        """An error of a task in another process comes back as it was."""
        return partial(type(self), got=self.got), (self.place, self.what, self.remedy)


class DataError(MedcotError):
    """Params or data that are not valid: exit code 2."""

    exit_code = 2


class MachineError(MedcotError):
    """The machine, the disk or the network does not allow it: exit code 3."""

    exit_code = 3


class TrainingError(MedcotError):
    """A computation that went wrong, such as an infinite loss: exit code 4."""

    exit_code = 4


def printable(text: str) -> str:
    """Escape what is not there to be seen: line breaks, terminal codes, changes of direction; a hub's file names may hold them."""
    return "".join(c if c.isprintable() or unicodedata.category(c) == "Zs" else ascii(c)[1:-1] for c in text)


def one_line(value: object) -> str:
    """Show a value on one line of at most MAX_VALUE_CHARS characters, control characters escaped."""
    text = value if isinstance(value, str) else repr(value)
    text = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
    return text if len(text) <= MAX_VALUE_CHARS else text[: MAX_VALUE_CHARS - 1] + "…"
