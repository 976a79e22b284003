"""Strict JSON rows: what JSON lets pass is named, with its raw text kept."""

from __future__ import annotations

import json

import pytest

from medcot.errors import DataError
from medcot.records import canonical, short_hash
from medcot.rows import MAX_DEPTH, MAX_ROW_BYTES, parse_array, parse_row

ROW = {"Question": "胸痛？", "Complex_CoT": "先想。", "Response": "Check the ECG 心电图。"}


def nested(levels: int) -> str:
    return '{"a":' + "[" * levels + "]" * levels + "}"


def test_a_readable_row_is_identified_by_its_canonical_object_whatever_its_layout() -> None:
    plain = parse_row(json.dumps(ROW, ensure_ascii=False))
    spaced = parse_row(json.dumps(dict(reversed(ROW.items())), indent=2))
    assert plain.values == spaced.values == ROW
    assert plain.hash == spaced.hash == short_hash(canonical(ROW))


@pytest.mark.parametrize(
    ("text", "code", "detail"),
    [
        ('{"Question": "胸痛" "x"}', "invalid_json", "Expecting ',' delimiter at byte 22"),
        ('{"Question": "pain"', "invalid_json", "Expecting ',' delimiter at byte 19"),
        ('{"a": "tab\there"}', "invalid_json", "Invalid control character at at byte 10"),
        ('{"a": 1} {"b": 2}', "invalid_json", "Extra data at byte 8"),
        ('{"a": "NaN", "症状": NaN}', "nan_literal", "NaN at byte 23"),
        ('{"a": -Infinity}', "nan_literal", "-Infinity at byte 6"),
        ('{"a": 1e999}', "nan_literal", "1e999 is beyond the range of numbers"),
        ('{"a": ' + "9" * 5000 + "}", "nan_literal", "99999999999999999999 is beyond the range of numbers"),
        ('{"答": 1, "b": 2, "答": 3}', "duplicate_key", r"'\u7b54' stands twice"),
        ('{"a": {"b": 1, "b": 1}}', "duplicate_key", "'b' stands twice"),
        ('["问", "答"]', "not_object", "list in place of an object"),
        ("null", "not_object", "NoneType in place of an object"),
        ('"text"', "not_object", "str in place of an object"),
        (r'{"a": "\ud83d broken 残"}', "lone_surrogate", "U+D83D"),
        (r'{"\udc00": 1}', "lone_surrogate", "U+DC00"),
        (nested(MAX_DEPTH + 1), "too_deep", "more than 64 levels of nesting"),
        (nested(10_000), "too_deep", "more than 64 levels of nesting"),
    ],
)
def test_what_json_lets_pass_is_unreadable_and_keeps_its_raw_text(text: str, code: str, detail: str) -> None:
    row = parse_row(text)
    assert (row.error, row.detail) == (code, detail)
    assert (row.values, row.raw, row.hash) == (None, text, short_hash(text))
    text.encode()  # whatever was wrong, the raw text can be written as UTF-8


def test_a_row_at_the_depth_limit_and_a_paired_surrogate_are_read() -> None:
    assert parse_row(nested(MAX_DEPTH - 1)).error is None
    assert parse_row(r'{"a": "\ud83d\ude00"}').values == {"a": "😀"}


def test_a_row_over_the_cap_keeps_its_head_and_the_hash_of_all_of_it() -> None:
    text = json.dumps({"Question": "痛" * (MAX_ROW_BYTES // 3)}, ensure_ascii=False)
    row = parse_row(text)
    assert (row.error, row.raw, row.hash) == ("row_too_long", text[:1000], short_hash(text))
    assert row.detail == f"{len(text.encode())} bytes, at most 1000000 are read; the first 1000 characters are kept"


def test_a_long_row_is_capped_whatever_else_is_wrong_with_it() -> None:
    for text in ("{oops 坏" + "x" * MAX_ROW_BYTES, '{"a": "' + "痛" * (MAX_ROW_BYTES // 3) + '" NaN'):
        row = parse_row(text)
        assert (row.error, row.raw, row.hash) == ("row_too_long", text[:1000], short_hash(text))


def test_an_array_gives_its_rows_and_one_odd_row_costs_only_itself() -> None:
    text = f' [ {json.dumps(ROW)} , {nested(10_000)}, 7,\n{{"a": NaN}}, {json.dumps(ROW, ensure_ascii=False)} ]\n'
    rows = list(parse_array(text, "file.json"))
    assert [row.error for row in rows] == [None, "too_deep", "not_object", "nan_literal", None]
    assert rows[1].raw == nested(10_000)
    assert rows[3].detail == "NaN at byte 6", "positions count from the row, so that shuffled files give equal records"
    assert rows[0].hash == rows[4].hash
    assert list(parse_array("[]", "file.json")) == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[{"a": "痛"}, {"b": "tru', "f.json: row 1, byte 21: invalid JSON: Unterminated string starting at"),
        ('[{"a": 1}, {"b": 2}', "f.json: row 2, byte 19: invalid JSON: the file ends too early"),
        ('[{"a": 1},', "f.json: row 1, byte 10: invalid JSON: the file ends too early"),
        ("[", "f.json: row 0, byte 1: invalid JSON: the file ends too early"),
        ('[{"a": 1} {"b": 2}]', "f.json: row 1, byte 10: invalid JSON: expected `,` or `]` after the row"),
        ('[{"a" 1}]', "f.json: row 0, byte 6: invalid JSON: Expecting ':' delimiter"),
        ('[{"a": 1}] []', "f.json: row 1, byte 10: invalid JSON: text after the end of the array"),
        ("[" + '{"a":' * 5000, "f.json: row 1, byte 25001: invalid JSON: the file ends too early"),
        ("痛", "f.json: not JSON, got 痛; write an array of objects, one a row"),
        ("", "f.json: not JSON, got ; write an array of objects, one a row"),
    ],
)
def test_a_broken_array_names_the_row_and_the_byte(text: str, message: str) -> None:
    with pytest.raises(DataError) as caught:
        list(parse_array(text, "f.json"))
    assert str(caught.value).startswith(message)


def test_no_detail_and_no_message_repeats_personal_data() -> None:
    assert parse_row('{"tel 13812345678": 1, "tel 13812345678": 2}').detail == "'tel [MOBILE1]' stands twice"
    with pytest.raises(DataError) as error:
        list(parse_array("手机13812345678", "f.json"))
    assert "手机[手机号1]" in str(error.value)
