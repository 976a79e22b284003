"""What changed between two texts, to be read by a person: Chinese by the character, Latin words and numbers as a whole.

A diff is a list of segments and loses nothing: without the inserted segments it is the text before, without the deleted ones the text
after. What is shown marks what the eye would miss, such as a no-break space, and passes no control character on to a terminal.
"""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from typing import Literal, NamedTuple, TextIO

from rapidfuzz.distance import LCSseq

Tag = Literal["equal", "delete", "insert", "skip"]
CONTEXT = 30  # characters of unchanged text that trim leaves on either side of a change
SHORT = 8  # an unchanged stretch of this many characters between two larger changes is noise and joins them

# A number with its separators, a run of letters that are not Han or kana, or any one character; each with what combines with it.
_COMBINING = "(?:[\u0300-\u036f\u1ab0-\u1aff\u20d0-\u20ff\ufe00-\ufe0f]|[\U0001f3fb-\U0001f3ff]|\u200d.)*"
_LETTER = "[A-Za-z\u00aa\u00b5\u00ba\u00c0-\u024f\u0370-\u052f\u1e00-\u1fff]"
_TOKEN = re.compile(rf"(?:[0-9]+(?:[.,][0-9]+)*|{_LETTER}+|\r\n|.){_COMBINING}", re.DOTALL)

_BARE_SPACES = re.compile(r"^ +| +$| {2,}| +(?=\n)")  # a single space between two words needs no mark

PLAIN = {"delete": ("[-", "-]"), "insert": ("{+", "+}")}
COLOUR = {"delete": ("\x1b[31;9m", "\x1b[0m"), "insert": ("\x1b[32m", "\x1b[0m")}
_NAMES = {
    "\t": "⇥",
    "\n": "⏎\n",
    "\r": "␍",
    "\u00a0": "⟨NBSP⟩",
    "\u00ad": "⟨SHY⟩",
    "\u200b": "⟨ZWSP⟩",
    "\u200c": "⟨ZWNJ⟩",
    "\u200d": "⟨ZWJ⟩",
    "\u2028": "⟨LS⟩",
    "\u2029": "⟨PS⟩",
    "\u202f": "⟨NNBSP⟩",
    "\u2060": "⟨WJ⟩",
    "\u3000": "⟨IDSP⟩",
    "\ufeff": "⟨BOM⟩",
}


class Segment(NamedTuple):
    """A stretch of text: in both texts (equal, or skip where trim leaves it out of sight), only before (delete), only after (insert)."""

    tag: Tag
    text: str


class _Change(NamedTuple):
    """Unchanged text, and what was deleted and inserted after it."""

    equal: str
    delete: str
    insert: str


def diff(before: str, after: str) -> list[Segment]:
    """Compare two texts; neighbouring segments never have one tag, and where both stand, a deletion comes before its insertion."""
    if before == after:
        return [Segment("equal", before)] if before else []
    segments = []
    for change in _coalesce(_changes(_TOKEN.findall(before), _TOKEN.findall(after))):
        tagged = (Segment("equal", change.equal), Segment("delete", change.delete), Segment("insert", change.insert))
        segments += [segment for segment in tagged if segment.text]
    return segments


def _changes(before: Sequence[str], after: Sequence[str]) -> Iterator[_Change]:
    equal = delete = insert = ""
    for code in LCSseq.opcodes(before, after):
        if code.tag == "equal":
            if delete or insert:
                yield _Change(equal, delete, insert)
                equal = delete = insert = ""
            equal += "".join(before[code.src_start : code.src_end])
        else:
            delete += "".join(before[code.src_start : code.src_end])
            insert += "".join(after[code.dest_start : code.dest_end])
    yield _Change(equal, delete, insert)


def _coalesce(changes: Iterable[_Change]) -> list[_Change]:
    """Join changes that only a few characters part, fewer than either of them has: two words that share a letter are no edit of it."""
    joined: list[_Change] = []
    for change in changes:
        while joined and _is_noise(joined[-1], change):
            last, equal = joined.pop(), change.equal
            change = _Change(last.equal, last.delete + equal + change.delete, last.insert + equal + change.insert)
        joined.append(change)
    return joined


def _is_noise(last: _Change, change: _Change) -> bool:
    size = len(change.equal)
    sides = (max(len(side.delete), len(side.insert)) for side in (last, change))
    return 0 < size <= SHORT and "\n" not in change.equal and all(size < side for side in sides)


def trim(segments: Sequence[Segment], context: int = CONTEXT) -> list[Segment]:
    """Leave out of sight, as `skip`, what is unchanged and farther than `context` characters from a change."""
    result: list[Segment] = []
    last = len(segments) - 1
    for i, (tag, text) in enumerate(segments):
        head, tail = context if i > 0 else 0, context if i < last else 0
        if tag != "equal" or len(text) <= head + tail + 2:
            result.append(Segment(tag, text))
            continue
        parts = (Segment(tag, text[:head]), Segment("skip", text[head : len(text) - tail]), Segment(tag, text[len(text) - tail :]))
        result += [part for part in parts if part.text]
    return result


def visible(text: str) -> str:
    """A changed text with a mark for every character that the eye would miss."""
    text = _BARE_SPACES.sub(lambda match: "␣" * len(match.group()), text)
    return "".join(_NAMES.get(c) or (f"⟨U+{ord(c):04X}⟩" if _is_hidden(c) else c) for c in text)


def safe(text: str) -> str:
    """An unchanged text as it is, but for control characters and changes of direction, which become their code points."""
    return "".join(c if c in "\n\t" or unicodedata.category(c) not in ("Cc", "Cf", "Cs", "Zl", "Zp") else visible(c) for c in text)


def _is_hidden(character: str) -> bool:
    return character != " " and unicodedata.category(character) in ("Cc", "Cf", "Cs", "Co", "Cn", "Zs", "Zl", "Zp", "Mn", "Me")


def wants_colour(stream: TextIO) -> bool:
    """Whether to colour what goes to a stream: only a terminal, and not when NO_COLOR is set (https://no-color.org)."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def render_terminal(segments: Iterable[Segment], colour: bool) -> str:
    """A diff for a terminal or a file: red and green, or `[-deleted-]` and `{+inserted+}`."""
    marks = COLOUR if colour else PLAIN
    shown = []
    for tag, text in segments:
        start, end = marks.get(tag, ("", ""))
        shown.append(" … " if tag == "skip" else f"{start}{visible(text) if start else safe(text)}{end}")
    return "".join(shown)
