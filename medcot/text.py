"""Medical-safe normalisation: a list of named rules, and nothing else, applied to a text in order.

A normalised text is RULES applied to the raw text, byte for byte, and normalising it again changes nothing. NFC, never NFKC:
compatibility folding turns 10⁹/L into 109/L and x² into x2, and it makes control tags out of full-width text. No rule changes
a number, a unit or a negation, and a rule that would create a control token in a text is not applied to that text.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from typing import NamedTuple


class Rule(NamedTuple):
    """A named change; the name is what the ledger and the metrics show."""

    name: str
    apply: Callable[[str], str]


# Think tags, tool tags, and the <|name|> family; read_control_tokens folds the full-width cousins, <｜name｜> among them, into it.
_CONTROL_TOKEN = re.compile(r"</?(?:think|tool_call|tool_response)>|<\|[^<>|\s]{1,64}\|>", re.IGNORECASE)

OPENING = "<＜﹤"  # every control token begins with one of these: all characters in whose folded form there is a `<`

# Zero width space, word joiner, byte order mark inside a text, soft hyphen. Not ZWJ and ZWNJ: emoji and scripts need them.
_INVISIBLE = re.compile("[\u200b\u2060\ufeff\u00ad]")
_LINE_ENDS = re.compile("\r\n|[\r\u2028\u2029]")
_SPACES = re.compile("[\u00a0\u2000-\u200a\u202f\u205f\u3000]")
# From the first space of a run alone: tried from each of them, a long run within a line would cost the square of its length.
_TRAILING = re.compile(r"(?<![ \t])[ \t]+(?=\n|\Z)")
_BLANK_LINES = re.compile(r"\n{4,}")
# Chinese punctuation keeps its width, and so do ＜ ＞ ｜, which control tags are made of.
_FULL_WIDTH = re.compile("[０-９Ａ-Ｚａ-ｚ％＋－／＝]")
_DECIMAL_POINT = re.compile("(?<=[0-9])．(?=[0-9])")


def _bom(text: str) -> str:
    return text.removeprefix("\ufeff")


def _newlines(text: str) -> str:
    return _LINE_ENDS.sub("\n", text)


def _invisible(text: str) -> str:
    return _INVISIBLE.sub("", text)


def _width(text: str) -> str:
    return _DECIMAL_POINT.sub(".", _FULL_WIDTH.sub(lambda match: chr(ord(match.group()) - 0xFEE0), text))


def _nfc(text: str) -> str:
    return unicodedata.normalize("NFC", text)


def _spaces(text: str) -> str:
    return _SPACES.sub(" ", text)


def _trailing_spaces(text: str) -> str:
    return _TRAILING.sub("", text)


def _blank_lines(text: str) -> str:
    return _BLANK_LINES.sub("\n\n\n", text)


def _strip(text: str) -> str:
    return text.strip(" \t\n")


# The order makes one pass enough: widths and NFC see neighbours that nothing invisible parts, NFC composes letters of their
# final width, and lines are trimmed before blank ones are counted.
RULES = (
    Rule("bom", _bom),
    Rule("newlines", _newlines),
    Rule("invisible", _invisible),
    Rule("width", _width),
    Rule("nfc", _nfc),
    Rule("spaces", _spaces),
    Rule("trailing_spaces", _trailing_spaces),
    Rule("blank_lines", _blank_lines),
    Rule("strip", _strip),
)


def apply_rule(rule: Rule, text: str) -> str:
    """Apply a rule, or leave the text alone where the rule would create a control token."""
    changed = rule.apply(text)
    if changed == text or len(_CONTROL_TOKEN.findall(changed)) <= len(_CONTROL_TOKEN.findall(text)):
        return changed
    return text


def normalize_text(text: str) -> str:
    """Apply every rule in order."""
    for rule in RULES:
        text = apply_rule(rule, text)
    return text


def find_control_token(text: str) -> str | None:
    """Return the first control token a text holds, or would hold once its widths are folded and invisible characters go.

    The token is returned folded: `＜think＞`, `<ｔhink>` and `<think>` are all `<think>`.
    """
    if not any(bracket in text for bracket in OPENING):
        return None
    match = _CONTROL_TOKEN.search(unicodedata.normalize("NFKC", _INVISIBLE.sub("", text)))
    return match.group() if match else None
