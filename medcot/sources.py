"""Read JSON, JSON Lines, CSV and Parquet files as rows, without guessing.

A file that cannot be read as a whole (another encoding, truncated, no rows) is a DataError that names the place. A row that cannot
be read is a row with an error code and its raw text. The canonical raw row, whose hash is the record's id, is the object of ALL
its columns as parsed, before mapping and normalisation: keys sorted, no spaces (records.canonical). A CSV cell is its text; a
Parquet cell that JSON has no word for is `{type: text}`. The raw text of an unreadable row is what stands between its neighbours
without the white space around it; of a ragged CSV row, the canonical list of its cells.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl

from medcot.errors import DataError, one_line
from medcot.pii import masked
from medcot.records import canonical
from medcot.rows import BLANK, Row, checked_row, parse_array, parse_row, unreadable

MAX_NAME_BYTES = 255  # what file systems take
COMPRESSED = (b"\x1f\x8b", b"PK\x03\x04", b"\xfd7zXZ\0", b"\x28\xb5\x2f\xfd")  # gzip, zip, xz, zstd


def import_path(folder: Path, name: str) -> Path:
    """Return the file of that name in the import folder; DataError for a name with a folder in it, or of no file."""
    place = "params.yaml: download.file"
    if not name or set("/\\:") & set(name) or name in (".", ".."):
        raise DataError(place, f"expected the name of a file in {folder}", "give the name alone, without a folder", got=name)
    path = folder / name
    if len(name.encode("utf-8", "surrogatepass")) > MAX_NAME_BYTES or not (path.exists() or path.is_symlink()):
        present = ", ".join(sorted(path.name for path in folder.glob("*") if path.suffix.lower() in READERS)) or "none"
        raise DataError(place, f"no such file in {folder}", f"put it there; files present: {one_line(present)}", got=name)
    if not path.is_file():
        kind = "a folder" if path.is_dir() else "a device or pipe" if path.exists() else "a link to nothing"
        raise DataError(str(path), f"{kind}, not a file", "put the file itself there")
    return path


def read_rows(path: Path) -> list[Row]:
    """Read every row of a file, in file order; the extension names the format, JSON and JSON Lines are told apart by content.

    Raises DataError for another format or encoding, a file that is truncated or broken as a whole, and one without rows.
    """
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        raise DataError(str(path), "not a format that is read", f"use one of {', '.join(READERS)}", got=path.suffix)
    rows = reader(path)
    if not rows:
        raise DataError(str(path), "the file has no rows", "put at least one record into it")
    return rows


def _read_bytes(path: Path) -> bytes:
    """Read a file without its byte order mark; refuse what is not the data itself."""
    data = path.read_bytes()
    head = data[:1000]
    if head.startswith(COMPRESSED):
        raise DataError(str(path), "a compressed file, not the data itself", "unpack it first")
    wide = _wide_encoding(head)
    if wide:
        raise DataError(str(path), f"not UTF-8, it looks like {wide}", f"convert it: `iconv -f {wide} -t UTF-8`")
    if head.startswith(b"version https://git-lfs"):
        raise DataError(str(path), "a Git LFS pointer, not the data", "fetch the file itself: `git lfs pull`")
    if head.lstrip().lower().startswith((b"<!doctype", b"<html")):
        raise DataError(str(path), "a web page, not data", "download the file itself, not the page that shows it")
    return data.removeprefix(b"\xef\xbb\xbf")


def _wide_encoding(head: bytes) -> str | None:
    """Name the UTF-16 or UTF-32 that a byte order mark or the places of the NULs tell of."""
    if head.startswith((b"\xff\xfe\0\0", b"\0\0\xfe\xff")):
        return "UTF-32"
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "UTF-16"
    if not len(head) < 4 * head.count(0) <= 3 * len(head):
        return None
    for name in ("UTF-32LE", "UTF-32BE"):
        try:
            head[: len(head) // 4 * 4].decode(name)
        except UnicodeDecodeError:
            continue
        return name
    return "UTF-16BE" if head[::2].count(0) > head[1::2].count(0) else "UTF-16LE"


def _decode(path: Path, data: bytes) -> str:
    """Decode a whole file as UTF-8, or say where it is not, and why where that can be told."""
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        if error.reason == "unexpected end of data":
            raise DataError(str(path), f"truncated in the middle of a character at byte {error.start}", "copy the file again") from None
        remedy = "convert it: `iconv -f GB18030 -t UTF-8`" if _is_gb18030(data) else "mend it there, or save it as UTF-8"
        raise DataError(str(path), _not_utf8(error, data), remedy) from None


def _not_utf8(error: UnicodeDecodeError, data: bytes) -> str:
    return f"not UTF-8 at byte {error.start}" + (", it looks like GB18030" if _is_gb18030(data) else "")


def _is_gb18030(data: bytes) -> bool:
    """Whether the bytes are more Chinese in GB18030 than in UTF-8: shown to the user, never acted upon.

    Only GB2312's common characters count, since pairs of Western bytes read as rare ones.
    """
    try:
        wide = [c for c in data.decode("gb18030") if not c.isascii()]
    except UnicodeDecodeError:
        return False
    utf8 = [c for c in data.decode("utf-8", "replace") if not c.isascii()]
    common = sum("\u4e00" <= c <= "\u9fff" and len(c.encode("gb2312", "ignore")) == 2 for c in wide)
    return 2 * common > len(wide) and 2 * utf8.count("\ufffd") > len(utf8)


def _read_json(path: Path) -> list[Row]:
    """Read an array of objects, or JSON Lines under the wrong name."""
    data = _read_bytes(path)
    body = data.strip(BLANK.encode())
    if not body.startswith(b"[") and sum(line.startswith(b"{") for line in body.split(b"\n")) > 1:
        return _parse_lines(path, data)
    text = _decode(path, data)
    if body.startswith(b"{"):
        remedy = "write an array of objects, one a row; or one object a line, with the extension .jsonl"
        raise DataError(str(path), "the top level is one object, not an array of rows", remedy, got=masked(text.strip(BLANK)[:1000])[:60])
    return list(parse_array(text, str(path))) if body else []


def _read_jsonl(path: Path) -> list[Row]:
    """Read one object a line, or a JSON array under the wrong name."""
    data = _read_bytes(path)
    is_array = data.lstrip(BLANK.encode()).startswith(b"[") and data.lstrip(BLANK.encode() + b"[").startswith(b"{")
    return list(parse_array(_decode(path, data), str(path))) if is_array else _parse_lines(path, data)


def _parse_lines(path: Path, data: bytes) -> list[Row]:
    r"""Parse rows split at \n alone (U+2028 is legal inside a string); blank lines are no rows, a bad line costs only itself."""
    lines = [line.strip(BLANK.encode()) for line in data.split(b"\n")]
    rows = [_parse_line(line) for line in lines if line]
    if 2 * sum(row.error == "invalid_utf8" for row in rows) > len(rows):
        _decode(path, data)  # raises: it is the file that is in another encoding, not a row that is damaged
    return rows


def _parse_line(line: bytes) -> Row:
    try:
        return parse_row(line.decode())
    except UnicodeDecodeError as error:
        return unreadable("invalid_utf8", _not_utf8(error, line), line.decode("utf-8", "backslashreplace"))


def _read_csv(path: Path) -> list[Row]:
    """Read comma-separated values with a header; blank lines are no rows."""
    csv.field_size_limit(2**31 - 1)  # the row cap is ours, and a cell over it must not end the file
    reader = csv.reader(io.StringIO(_decode(path, _read_bytes(path)), newline=""), strict=True)
    try:
        header = next(reader, [])
        twice = [name for name in header if header.count(name) > 1]
        if twice:
            raise DataError(f"{path}: header", "a column name stands twice", "rename one of them", got=twice[0])
        return [_csv_row(header, cells) for cells in reader if cells]
    except csv.Error as error:
        raise DataError(f"{path}: line {reader.line_num}", f"invalid CSV: {error}", "mend the quotes") from None


def _csv_row(header: list[str], cells: list[str]) -> Row:
    if len(cells) != len(header):
        return unreadable("ragged_row", f"{len(cells)} cells under {len(header)} columns", canonical(cells))
    values = dict(zip(header, cells, strict=True))
    return checked_row(values, canonical(values))


def _read_parquet(path: Path) -> list[Row]:
    try:
        frame = pl.read_parquet(path, glob=False)
    except pl.exceptions.PolarsError as error:
        raise DataError(str(path), "not a readable Parquet file", "write or copy it again", got=str(error)) from None
    return [_parquet_row(values) for values in frame.iter_rows(named=True)]


def _parquet_row(values: dict[str, Any]) -> Row:
    clean = {name: _json_value(value) for name, value in values.items()}
    defects = [("nan_literal", f"{name}: not a finite number") for name, value in clean.items() if _non_finite(value)]
    return checked_row(clean, canonical(clean), defects)


def _json_value(value: Any) -> Any:
    """Keep what JSON can say; name the type of the rest, so that a date is never taken for text."""
    if value is None or isinstance(value, str | bool | int | float):
        return value
    if isinstance(value, dict):
        return {name: _json_value(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_json_value(item) for item in value]
    return {type(value).__name__: str(value)}


def _non_finite(value: Any) -> bool:
    if isinstance(value, dict | list):
        return any(map(_non_finite, value.values() if isinstance(value, dict) else value))
    return isinstance(value, float) and not math.isfinite(value)


READERS: dict[str, Callable[[Path], list[Row]]] = {
    ".json": _read_json,
    ".jsonl": _read_jsonl,
    ".csv": _read_csv,
    ".parquet": _read_parquet,
}
