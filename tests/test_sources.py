"""Source files: four formats give the same rows, and a file that cannot be read says which, where and what to do."""

from __future__ import annotations

import datetime
import json
import os
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
    assert rows[3].detail == "not UTF-8 at byte 17"


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
        ("utf-16-le", "not UTF-8, it looks like UTF-16LE; convert it: `iconv -f UTF-16LE -t UTF-8`"),
        ("utf-16-be", "not UTF-8, it looks like UTF-16BE; convert it: "),
        ("utf-32", "not UTF-8, it looks like UTF-32; convert it: `iconv -f UTF-32 -t UTF-8`"),
        ("utf-32-le", "not UTF-8, it looks like UTF-32LE; convert it: "),
        ("utf-32-be", "not UTF-8, it looks like UTF-32BE; convert it: "),
        ("gb18030", "it looks like GB18030; convert it: `iconv -f GB18030 -t UTF-8`"),
    ],
)
@pytest.mark.parametrize("name", ["rows.json", "rows.jsonl", "rows.csv"])
def test_another_encoding_is_refused_with_the_guess_named(tmp_path: Path, name: str, encoding: str, what: str) -> None:
    content = {"rows.json": dumps(ROWS), "rows.jsonl": dumps(ROWS[0]), "rows.csv": "Question,Response\n胸痛 pain,心电图 ECG\n"}[name]
    assert what in message(write(tmp_path / name, content.encode(encoding)))


@pytest.mark.parametrize(
    "damaged",
    [
        b"Sj\xf6\xff\xff",
        b"caf\xe9s, f\xfcr",  # pairs that GB18030 reads as rare Chinese characters
        "胸痛三小时怎么办".encode() + b"\xb4\xcd\n",
        ("胸痛，" * 50).encode() + b"\xff\xfe" + "心电图".encode(),
    ],
)
def test_no_encoding_is_guessed_for_a_few_bad_bytes(tmp_path: Path, damaged: bytes) -> None:
    text = message(write(tmp_path / "rows.csv", b"Question\n" + damaged))
    assert text.endswith("; mend it there, or save it as UTF-8")
    assert ": not UTF-8 at byte " in text
    assert "looks like" not in text


@pytest.mark.parametrize("num_bytes", [1, 2])
@pytest.mark.parametrize("name", ["rows.json", "rows.csv"])
def test_a_file_cut_in_the_middle_of_a_character_is_truncated(tmp_path: Path, name: str, num_bytes: int) -> None:
    content = '[{"Question": "pain 胸痛'.encode()
    text = message(write(tmp_path / name, content[: len(content) - 3 + num_bytes]))
    assert text.endswith(f"{name}: truncated in the middle of a character at byte {len(content) - 3}; copy the file again")


@pytest.mark.parametrize("magic", [b"\x1f\x8b\x08", b"PK\x03\x04", b"\xfd7zXZ\x00", b"\x28\xb5\x2f\xfd"])
@pytest.mark.parametrize("name", ["数据.json", "rows.jsonl", "rows.csv"])
def test_a_compressed_file_is_named_as_one(tmp_path: Path, name: str, magic: bytes) -> None:
    text = message(write(tmp_path / name, magic + b"\x00\xe5\x92" * 20))
    assert text.endswith(f"{name}: a compressed file, not the data itself; unpack it first")


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


def test_what_is_no_file_in_the_import_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "文件夹.json").mkdir()
    os.mkfifo(tmp_path / "pipe.json")
    (tmp_path / "link.json").symlink_to("nowhere")
    for name, kind in (("文件夹.json", "a folder"), ("pipe.json", "a device or pipe"), ("link.json", "a link to nothing")):
        with pytest.raises(DataError, match=f"{name}: {kind}, not a file; put the file itself there"):
            import_path(tmp_path, name)


def test_a_name_too_long_for_any_file_is_shortened(tmp_path: Path) -> None:
    for name in ("x" * 5000, "名" * 100):
        with pytest.raises(DataError, match=r"no such file in .*, got ") as caught:
            import_path(tmp_path, name)
        assert len(str(caught.value)) < 300 + len(str(tmp_path))
