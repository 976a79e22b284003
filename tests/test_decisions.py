"""A curator's decisions: read strictly, with the file and line of whatever is not as it should be."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import ROOT

from medcot.decisions import COLUMNS, Decision, read_decisions, write_decisions
from medcot.errors import DataError

HEADER = ",".join(COLUMNS)
KEEP = "0123456789abcdef,keep,对的,chen,2026-01-31,,,"
MOBILE = "13800138000"  # fictitious


def write(directory: Path, *lines: str, header: str = HEADER) -> Path:
    path = directory / "decisions.csv"
    path.write_text("\n".join([header, *lines]) + "\n", encoding="utf-8")
    return path


def test_the_three_decisions_are_read_by_content_hash(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        KEEP,
        'fedcba9876543210,edit,"dose, wrong",Li,2026-02-28,,,"口服 300 mg。\n每日一次。"',
        "00000000000000ff,drop,不是医学,chen,2026-03-01,,,",
    )
    assert read_decisions(path) == {
        "0123456789abcdef": Decision("0123456789abcdef", "keep", "对的", "chen", "2026-01-31"),
        "fedcba9876543210": Decision("fedcba9876543210", "edit", "dose, wrong", "Li", "2026-02-28", answer="口服 300 mg。\n每日一次。"),
        "00000000000000ff": Decision("00000000000000ff", "drop", "不是医学", "chen", "2026-03-01"),
    }


def test_what_excel_saves_is_read_alike(tmp_path: Path) -> None:
    plain = read_decisions(write(tmp_path, KEEP))
    path = tmp_path / "decisions.csv"
    path.write_bytes(b"\xef\xbb\xbf" + f"{HEADER}\r\n{KEEP}\r\n,,,,,,,\r\n".encode())
    assert read_decisions(path) == plain
    shuffled = "date,answer,question,reasoning,reviewer,reason,decision,content_hash"
    assert read_decisions(write(tmp_path, "2026-01-31,,,, chen ,对的,keep,0123456789abcdef", header=shuffled)) == plain


def test_two_lines_that_decide_the_same_count_once_and_the_later_one_speaks(tmp_path: Path) -> None:
    path = write(tmp_path, KEEP, KEEP.replace("chen", "Li"))
    assert [decision.reviewer for decision in read_decisions(path).values()] == ["Li"]


def test_the_repository_begins_without_a_decision() -> None:
    assert read_decisions(ROOT / "data/curation/decisions.csv") == {}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (KEEP.replace("0123", "012"), "2: content_hash must be 16 hex digits in lower case, got 012456789abcdef; copy the hash"),
        (KEEP.replace("abcdef", "ABCDEF"), "2: content_hash must be 16 hex digits in lower case, got 0123456789ABCDEF;"),
        (KEEP.replace("0123456789abcdef", "1.23457E+15"), "2: content_hash must be 16 hex digits in lower case, got 1.23457E+15;"),
        (KEEP.replace("keep", "Keep"), "2: unknown decision, got Keep; write keep, drop, edit"),
        (KEEP.replace("对的", ""), "2: reason is empty; say why and by whom: both stand in the ledger"),
        (KEEP.replace("chen", " "), "2: reviewer is empty; say why"),
        (
            KEEP.replace("2026-01-31", "2026/1/31"),
            "2: date is not a day in the form YYYY-MM-DD, got 2026/1/31; write it such as 2026-01-31",
        ),
        (KEEP.replace("01-31", "02-30"), "2: date is not a day in the form YYYY-MM-DD, got 2026-02-30;"),
        (KEEP.replace("2026-01-31", "20260131"), "2: date is not a day in the form YYYY-MM-DD, got 20260131;"),
        (KEEP.replace("keep", "edit"), "2: an edit without a text; fill in question, reasoning or answer; an empty one stays as it is"),
        (KEEP.replace("keep", "edit") + "  ", "2: an edit without a text;"),
        (KEEP + "新", "2: keep takes no text, got answer; write edit, or empty the text columns"),
        (KEEP.replace("keep", "drop") + "新", "2: drop takes no text, got answer;"),
        ("'" + KEEP, "2: content_hash was changed by a spreadsheet, got '0123456789abcdef; write the plain text and format"),
        ('"=""0123456789abcdef"""' + KEEP[16:], '2: content_hash was changed by a spreadsheet, got ="0123456789abcdef";'),
        (KEEP.replace("keep", "edit") + "#NAME?", "2: answer was changed by a spreadsheet, got #NAME?;"),
        (KEEP + ",", "2: expected 8 cells, got 9; put texts with commas or line breaks in double quotes"),
        ("0123456789abcdef,keep", "2: expected 8 cells, got 2;"),
        (KEEP + '"a"b', "2: not valid CSV, got "),
        (
            KEEP + "\n" + KEEP.replace("keep", "drop"),
            "3: line 2 decides otherwise about the same row, got 0123456789abcdef; keep one of the",
        ),
        (
            KEEP.replace("keep", "edit") + '"1\n2"\n' + KEEP.replace("keep", "edit") + "3",
            "4: line 2 decides otherwise about the same row, got 0123456789abcdef;",
        ),
    ],
)
def test_a_line_that_is_not_as_it_should_be_is_one_message_with_its_number(tmp_path: Path, line: str, message: str) -> None:
    path = write(tmp_path, line)
    with pytest.raises(DataError) as caught:
        read_decisions(path)
    assert str(caught.value).startswith(f"{path}:{message}")


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (HEADER + ",note", ":1: unknown column, got note; the columns are content_hash, decision, reason, reviewer, date, question"),
        (HEADER.replace(",reviewer", ""), ":1: missing column, got reviewer; the columns are"),
        (HEADER + ",date", ":1: a column stands twice, got date, date; the columns are"),
    ],
)
def test_another_header_is_refused(tmp_path: Path, header: str, message: str) -> None:
    path = write(tmp_path, header=header)
    with pytest.raises(DataError) as caught:
        read_decisions(path)
    assert str(caught.value).startswith(f"{path}{message}")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, ": the file is missing; `git checkout "),
        (b"", ":1: the header is missing; begin with the line content_hash,decision,"),
        (f"{HEADER}\n{KEEP}\n".encode("gb18030"), ":2: not UTF-8, got byte 0xb6; save it as `CSV UTF-8`"),
    ],
)
def test_a_file_that_is_no_decisions_file_is_refused(tmp_path: Path, content: bytes | None, message: str) -> None:
    path = tmp_path / "decisions.csv"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        read_decisions(path)
    assert str(caught.value).startswith(f"{path}{message}")


def test_no_message_and_no_list_repeats_personal_data(tmp_path: Path) -> None:
    for line in (KEEP.replace("2026-01-31", MOBILE), KEEP.replace("keep", f"手机：{MOBILE}"), f"'手机：{MOBILE}" + KEEP[16:]):
        with pytest.raises(DataError) as caught:
            read_decisions(write(tmp_path, line))
        assert MOBILE not in str(caught.value)
    (decision,) = read_decisions(write(tmp_path, KEEP.replace("对的", f"家属手机：{MOBILE}"))).values()
    assert decision.detail == "keep: 家属手机：[手机号1] (chen, 2026-01-31)"
    write_decisions(tmp_path / "list.csv", [decision])
    listed = (tmp_path / "list.csv").read_text(encoding="utf-8")
    assert listed == "content_hash,decision,reason,reviewer,date\n0123456789abcdef,keep,家属手机：[手机号1],chen,2026-01-31\n"


def test_the_detail_of_an_edit_names_its_fields() -> None:
    edit = Decision("0" * 16, "edit", "太短", "Li", "2026-01-31", question="问？", answer="答。")
    assert edit.detail == "edit of question, answer: 太短 (Li, 2026-01-31)"
    assert edit.edits == {"question": "问？", "answer": "答。"}


def test_personal_data_is_masked_before_a_cell_is_cut_and_in_a_row_that_stands_for_the_header(tmp_path: Path) -> None:
    for line, header in (
        (f"0123456789abcdef,{'x' * 32}手机13812345678,r,m,2026-01-01,,,", HEADER),
        ("", "0123456789abcdef,keep,手机13812345678,m,2026-01-01,,,"),
    ):
        with pytest.raises(DataError) as error:
            read_decisions(write(tmp_path, line, header=header))
        assert "1381" not in str(error.value)
        assert "[手机号1" in str(error.value)


def test_a_detail_is_one_line_that_no_terminal_obeys() -> None:
    assert Decision("0" * 16, "keep", "a\nb\x1b[31m\u202e", "m\0", "2026-01-01").detail == r"keep: a\nb\x1b[31m\u202e (m\x00, 2026-01-01)"
