"""Text diffs: they lose nothing, read by the character in Chinese and by the word in English, and show what the eye would miss."""

from __future__ import annotations

import io
import unicodedata
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medcot.textdiff import Segment, diff, render_terminal, safe, trim, visible, wants_colour

TEXTS = st.text(alphabet="患者男女无没有5０1.0 mgABé\u0301\n\r\t\u00a0\u200b\u3000，⁹👩\u200d⚕\ufe0f", max_size=40)


def side(segments: list[Segment], tag: str) -> str:
    return "".join(text for own, text in segments if own in ("equal", "skip", tag))


@given(TEXTS, TEXTS)
def test_a_diff_loses_nothing(before: str, after: str) -> None:
    segments = diff(before, after)
    assert side(segments, "delete") == before
    assert side(segments, "insert") == after
    assert all(one.tag != two.tag and two.text for one, two in pairwise(segments))
    assert ("insert", "delete") not in [(one.tag, two.tag) for one, two in pairwise(segments)]


@given(TEXTS, TEXTS, st.integers(0, 5))
def test_trimming_hides_and_loses_nothing(before: str, after: str, context: int) -> None:
    whole = diff(before, after)
    trimmed = trim(whole, context)
    assert (side(trimmed, "delete"), side(trimmed, "insert")) == (before, after)
    assert [s for s in trimmed if s.tag in ("delete", "insert")] == [s for s in whole if s.tag in ("delete", "insert")]


@pytest.mark.parametrize(
    ("before", "after", "shown"),
    [
        ("患者男，44岁", "患者女，45岁", "患者[-男-]{+女+}，[-44-]{+45+}岁"),
        ("华法林5 mg口服", "华法林50 mg口服", "华法林[-5-]{+50+} mg口服"),
        ("无发热", "发热", "[-无-]发热"),
        ("no fever", "fever", "[-no␣-]fever"),
        ("The patient denies pain", "The patient reports pain", "The patient [-denies-]{+reports+} pain"),
        ("WBC 3.5", "WBC 35", "WBC [-3.5-]{+35+}"),
        ("１０×10⁹/L", "10×10⁹/L", "[-１０-]{+10+}×10⁹/L"),
        ("5\u00a0mg", "5 mg", "5[-⟨NBSP⟩-]{+␣+}mg"),
        ("胸\u200b痛", "胸痛", "胸[-⟨ZWSP⟩-]痛"),
        ("\ufeff胸痛", "胸痛", "[-⟨BOM⟩-]胸痛"),
        ("cafe\u0301", "café", "[-cafe⟨U+0301⟩-]{+café+}"),
        ("a\r\nb", "a\nb", "a[-␍⏎\n-]{+⏎\n+}b"),
        ("", "新", "{+新+}"),
        ("same 相同", "same 相同", "same 相同"),
        ("", "", ""),
    ],
)
def test_what_a_reader_sees(before: str, after: str, shown: str) -> None:
    assert render_terminal(diff(before, after), colour=False) == shown


def test_letters_that_meet_by_chance_are_no_edit() -> None:
    chinese = render_terminal(diff("急性阑尾炎首选手术", "慢性胃炎的随访观察"), colour=False)
    assert chinese == "[-急-]{+慢+}性[-阑尾炎首选手术-]{+胃炎的随访观察+}", "炎 is no common ground"
    assert [s.tag for s in diff("alpha beta gamma", "one two three")] == ["delete", "insert"]


def test_a_cluster_of_code_points_is_never_torn() -> None:
    for segment in diff("👩\u200d⚕\ufe0f好", "👨\u200d⚕\ufe0f好"):
        assert unicodedata.category(segment.text[0]) not in ("Mn", "Me", "Cf")


def test_only_what_is_far_from_a_change_is_left_out_of_sight() -> None:
    text = "甲" * 50
    assert trim(diff(f"{text}男{text}", f"{text}女{text}"), 3) == [
        Segment("skip", "甲" * 47),
        Segment("equal", "甲甲甲"),
        Segment("delete", "男"),
        Segment("insert", "女"),
        Segment("equal", "甲甲甲"),
        Segment("skip", "甲" * 47),
    ]
    near = diff("男" + "甲" * 7 + "男", "女" + "甲" * 7 + "女")
    assert trim(near, 3) == near  # hiding one character would save nothing
    assert render_terminal(trim(diff(f"{text}男", f"{text}女"), 2), colour=False) == " … 甲甲[-男-]{+女+}"


def test_no_text_reaches_the_terminal_as_a_command() -> None:
    hostile = "\x1b[31m红\x1b[0m\u202e\x07"
    for shown in (safe(hostile), visible(hostile), render_terminal(diff("", hostile), colour=False)):
        assert not any(unicodedata.category(c) in ("Cc", "Cf") for c in shown)
    assert safe("行一\n\t行二 emoji") == "行一\n\t行二 emoji"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_colour_only_on_a_terminal_that_wants_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    assert wants_colour(Terminal())
    assert not wants_colour(io.StringIO())
    monkeypatch.setenv("TERM", "dumb")
    assert not wants_colour(Terminal())
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("NO_COLOR", "1")
    assert not wants_colour(Terminal())
    assert render_terminal(diff("男", "女"), colour=True) == "\x1b[31;9m男\x1b[0m\x1b[32m女\x1b[0m"
