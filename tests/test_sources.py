"""Source files: four formats give the same rows, and a file that cannot be read says which, where and what to do."""

from __future__ import annotations

import datetime
import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from medcot.errors import DataError
from medcot.records import canonical, short_hash
from medcot.sources import import_path, read_rows

ROWS = [
    {"Question": "胸痛三小时，怎么办？", "Complex_CoT": "先排除\n心梗。", "Response": "立即做心电图。"},
    {"Question": 'He said "it hurts", why?', "Complex_CoT": "Think, then answer.", "Response": "5 mg, 10⁹/L"},
]


def dumps(row: Any) -> str:
    return json.dumps(row, ensure_ascii=False)


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def message(path: Path) -> str:
    with pytest.raises(DataError) as caught:
        read_rows(path)
    assert caught.value.exit_code == 2
    return str(caught.value)


def test_every_format_gives_the_same_rows_and_hashes(tmp_path: Path) -> None:
    frame = pl.DataFrame(ROWS)
    frame.write_parquet(tmp_path / "rows.parquet")
    frame.write_csv(tmp_path / "rows.csv")
    write(tmp_path / "rows.json", json.dumps(ROWS, indent=1))
    write(tmp_path / "rows.jsonl", "".join(dumps(row) + "\n" for row in ROWS))
    for name in ("rows.json", "rows.jsonl", "rows.csv", "rows.parquet"):
        rows = read_rows(tmp_path / name)
        assert [row.values for row in rows] == ROWS, name
        assert [row.hash for row in rows] == [short_hash(canonical(row)) for row in ROWS], name


@pytest.mark.parametrize("name", ["rows.json", "rows.jsonl"])
@pytest.mark.parametrize("layout", ["array", "pretty array", "lines", "crlf lines"])
def test_json_and_json_lines_are_told_apart_by_content(tmp_path: Path, name: str, layout: str) -> None:
    content = {
        "array": dumps(ROWS),
        "pretty array": json.dumps(ROWS, indent=2, ensure_ascii=False),
        "lines": "\n".join(map(dumps, ROWS)),
        "crlf lines": "\r\n".join(map(dumps, ROWS)) + "\r\n",
    }[layout]
    assert [row.values for row in read_rows(write(tmp_path / name, content))] == ROWS


@pytest.mark.parametrize("name", ["rows.json", "rows.jsonl", "rows.csv"])
def test_a_byte_order_mark_is_no_part_of_the_data(tmp_path: Path, name: str) -> None:
    content = "Question\n胸痛？\n" if name.endswith("csv") else dumps([{"Question": "胸痛？"}])
    rows = read_rows(write(tmp_path / name, b"\xef\xbb\xbf" + content.encode()))
    assert [row.values for row in rows] == [{"Question": "胸痛？"}]


def test_lines_split_at_the_newline_alone_and_blank_ones_are_no_rows(tmp_path: Path) -> None:
    row = {"Question": "上\u2028下\u2029\u0085end"}
    rows = read_rows(write(tmp_path / "rows.jsonl", f"\n{dumps(row)}\n\n \t\r\n{dumps(row)}"))
    assert [row.values for row in rows] == [row, row]


def test_a_bad_line_costs_only_itself(tmp_path: Path) -> None:
    lines = [dumps(ROWS[0]).encode(), b"{oops", b'{"a": NaN}', '{"Question": "头'.encode() + b'\xb4\xcd"}', b"[1]", dumps(ROWS[1]).encode()]
    rows = read_rows(write(tmp_path / "rows.jsonl", b"\n".join(lines)))
    assert [row.error for row in rows] == [None, "invalid_json", "nan_literal", "invalid_utf8", "not_object", None]
    assert rows[3].raw == '{"Question": "头\\xb4\\xcd"}'
    assert rows[3].detail is not None
    assert rows[3].detail.startswith("not UTF-8 at byte 17, it looks like ")


def test_a_single_object_is_a_row_in_json_lines_but_not_in_json(tmp_path: Path) -> None:
    assert [row.values for row in read_rows(write(tmp_path / "one.jsonl", dumps(ROWS[0])))] == [ROWS[0]]
    columns = {"Question": ["问", "q"], "Response": ["答", "a"]}
    for content in (dumps(columns), json.dumps(columns, indent=2)):
        text = message(write(tmp_path / "columns.json", content))
        assert "columns.json: the top level is one object, not an array of rows, got {" in text
        assert text.endswith("write an array of objects, one a row; or one object a line, with the extension .jsonl")


@pytest.mark.parametrize(
    ("encoding", "what"),
    [
        ("utf-16", "not UTF-8, it looks like UTF-16; convert it: `iconv -f UTF-16 -t UTF-8`"),
        ("utf-16-le", "not UTF-8, it looks like UTF-16; convert it: `iconv -f UTF-16 -t UTF-8`"),
        ("gb18030", "it looks like GB18030; convert it: `iconv -f GB18030 -t UTF-8`"),
    ],
)
@pytest.mark.parametrize("name", ["rows.json", "rows.jsonl", "rows.csv"])
def test_another_encoding_is_refused_with_the_guess_named(tmp_path: Path, name: str, encoding: str, what: str) -> None:
    content = {"rows.json": dumps(ROWS), "rows.jsonl": dumps(ROWS[0]), "rows.csv": "Question,Response\n胸痛 pain,心电图 ECG\n"}[name]
    assert what in message(write(tmp_path / name, content.encode(encoding)))


def test_bytes_of_no_chinese_encoding_are_guessed_as_western(tmp_path: Path) -> None:
    text = message(write(tmp_path / "rows.csv", b"Question\nSj\xf6\xff\xff"))
    assert "not UTF-8 at byte 11, it looks like WINDOWS-1252" in text


@pytest.mark.parametrize(
    ("name", "content", "what"),
    [
        ("rows.json", "", "the file has no rows; put at least one record into it"),
        ("rows.json", "[]", "the file has no rows"),
        ("rows.jsonl", "\n \n", "the file has no rows"),
        ("rows.csv", "Question,Response\n", "the file has no rows"),
        ("rows.csv", "", "the file has no rows"),
        ("rows.txt", "胸痛", "not a format that is read, got .txt; use one of .json, .jsonl, .csv, .parquet"),
        ("rows.json", dumps(ROWS)[:-30], "rows.json: row 1, byte "),
        ("rows.json", "version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "a Git LFS pointer, not the data; fetch"),
        ("rows.json", "\n<!DOCTYPE html><html></html>", "a web page, not data; download the file itself"),
        ("rows.parquet", "PAR1 nothing 无", "not a readable Parquet file, got "),
        ("rows.csv", "a,a\n1,2\n", "rows.csv: header: a column name stands twice, got a; rename one of them"),
        ("rows.csv", 'Question\n"never closed 未闭合\n', "rows.csv: line 2: invalid CSV: unexpected end of data; mend the quotes"),
    ],
)
def test_a_file_that_cannot_be_read_says_why(tmp_path: Path, name: str, content: str, what: str) -> None:
    assert what in message(write(tmp_path / name, content))


def test_csv_takes_newlines_quotes_and_large_fields_and_refuses_ragged_rows(tmp_path: Path) -> None:
    large = "痛" * 100_000
    content = f'Question,Response\n"上\n下, ""quoted""",答\n\nonly one\na,b,c\n"{large}",x\n'
    rows = read_rows(write(tmp_path / "rows.csv", content))
    assert rows[0].values == {"Question": '上\n下, "quoted"', "Response": "答"}
    assert [(row.error, row.detail, row.raw) for row in rows[1:3]] == [
        ("ragged_row", "1 cells under 2 columns", '["only one"]'),
        ("ragged_row", "3 cells under 2 columns", '["a","b","c"]'),
    ]
    assert rows[3].values == {"Question": large, "Response": "x"}


def test_parquet_values_that_json_cannot_say_are_named_by_type(tmp_path: Path) -> None:
    frame = pl.DataFrame(
        {
            "Question": ["问", "q"],
            "day": [datetime.date(2024, 2, 29), None],
            "score": [1.5, float("nan")],
            "tags": [["a"], []],
            "n": [{"k": 1}] * 2,
        }
    )
    frame.write_parquet(tmp_path / "rows.parquet")
    first, second = read_rows(tmp_path / "rows.parquet")
    assert first.values == {"Question": "问", "day": {"date": "2024-02-29"}, "score": 1.5, "tags": ["a"], "n": {"k": 1}}
    assert (second.error, second.detail) == ("nan_literal", "score: not a finite number")


def test_a_name_in_the_import_folder_is_found_and_nothing_else_is(tmp_path: Path) -> None:
    write(tmp_path / "我的 data.json", dumps(ROWS))
    assert import_path(tmp_path, "我的 data.json") == tmp_path / "我的 data.json"
    for name in ("", "..", "../x.json", "a/b.json", "a\\b.json", "/etc/passwd", "C:x.json"):
        with pytest.raises(DataError, match=r"expected the name of a file in .*; give the name alone, without a folder"):
            import_path(tmp_path, name)
    with pytest.raises(DataError, match=r"no such file in .*, got mine.json; put it there; files present: 我的 data.json"):
        import_path(tmp_path, "mine.json")
    with pytest.raises(DataError, match="files present: none"):
        import_path(tmp_path / "nowhere", "mine.json")
