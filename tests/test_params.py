"""Params are strict: what is wrong is named by key, with the value and the remedy."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import Field

from medcot.errors import DataError
from medcot.params import Params, load_section, read_params


class Inner(Params):
    threshold: float = Field(0.5, ge=0, le=1)
    """Share in [0, 1]; higher removes less."""


class Example(Params):
    rate: float = Field(1e-4, gt=0)
    """Step size, above 0."""
    name: str = "x"
    count: int = 1
    flag: bool = False
    inner: Inner = Inner()


def load(tmp_path: Path, text: str) -> Example:
    path = tmp_path / "params.yaml"
    path.write_text(text, encoding="utf-8")
    return load_section("example", Example, path)


def error_of(tmp_path: Path, text: str) -> str:
    with pytest.raises(DataError) as caught:
        load(tmp_path, text)
    return str(caught.value).replace(str(tmp_path) + "/", "")


@pytest.mark.parametrize("spelling", ["5e-6", "5e-06", "5.0e-6", "5.0e-06", "0.000005", "5E-6"])
def test_a_small_learning_rate_is_a_float_however_it_is_spelt(tmp_path: Path, spelling: str) -> None:
    assert load(tmp_path, f"example:\n  rate: {spelling}\n").rate == 5e-6


@pytest.mark.parametrize("spelling", ["1e-4", "1e4", "3e-5", "1", "1e+2"])
def test_exponents_are_floats(tmp_path: Path, spelling: str) -> None:
    assert load(tmp_path, f"example:\n  rate: {spelling}\n").rate == float(spelling)


@pytest.mark.parametrize("text", ["1e", "e5", "5e-6x", "剂量5e3", "1-2e3"])
def test_words_that_resemble_numbers_stay_text(tmp_path: Path, text: str) -> None:
    assert load(tmp_path, f"example:\n  name: {text}\n").name == text


def test_an_unknown_key_is_named_with_the_one_that_was_meant(tmp_path: Path) -> None:
    message = error_of(tmp_path, "example:\n  rat: 1.0\n")
    assert message == "params.yaml: example.rat: unknown key, got 1.0; did you mean `rate`?"


def test_an_unknown_key_unlike_any_lists_the_known_ones(tmp_path: Path) -> None:
    assert error_of(tmp_path, "example:\n  zzzzzz: 1\n").endswith("known keys: count, flag, inner, name, rate")


def test_a_wrong_type_is_named_with_what_the_key_is_for(tmp_path: Path) -> None:
    message = error_of(tmp_path, "example:\n  rate: fast\n")
    assert message.startswith("params.yaml: example.rate: ")
    assert message.endswith("got fast; Step size, above 0.")


@pytest.mark.parametrize(("line", "key"), [("rate: -1.0", "rate"), ("count: true", "count"), ("count: 1.5", "count"), ("flag: 1", "flag")])
def test_values_out_of_range_or_of_another_type_are_refused(tmp_path: Path, line: str, key: str) -> None:
    assert error_of(tmp_path, f"example:\n  {line}\n").startswith(f"params.yaml: example.{key}: ")


def test_a_nested_key_is_named_whole(tmp_path: Path) -> None:
    message = error_of(tmp_path, "example:\n  inner:\n    threshold: 1.5\n")
    assert message.startswith("params.yaml: example.inner.threshold: ")
    assert message.endswith("got 1.5; Share in [0, 1]; higher removes less.")
    assert "did you mean `threshold`?" in error_of(tmp_path, "example:\n  inner:\n    treshold: 0.5\n")


def test_a_key_that_stands_twice_is_refused_instead_of_the_last_one_winning(tmp_path: Path) -> None:
    assert "key `rate` stands twice" in error_of(tmp_path, "example:\n  rate: 1.0\n  rate: 2.0\n")


def test_a_missing_section_file_or_syntax_error_is_one_line(tmp_path: Path) -> None:
    assert "example: the section is missing" in error_of(tmp_path, "other:\n  a: 1\n")
    assert "not valid YAML" in error_of(tmp_path, "example: [1\n")
    assert "expected a mapping" in error_of(tmp_path, "- 1\n")
    with pytest.raises(DataError, match="the params file is missing"):
        read_params(tmp_path / "absent.yaml")


def test_params_are_frozen() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Example().rate = 2.0  # type: ignore[misc]


class Required(Params):
    size: int


def test_a_misspelt_key_that_is_required_is_named_as_misspelt(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_text("r:\n  sise: 3\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"r\.sise: unknown key, got 3; did you mean `size`\?"):
        load_section("r", Required, path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("example:\n  name: 2020-13-45\n", "params.yaml: not valid YAML, got month must be in 1..12; mend the syntax"),
        (f"example:\n  count: {'9' * 5000}\n", "params.yaml: not valid YAML, got Exceeds the limit"),
        (f"example:\n  count: 0x{'f' * 5000}\n", "params.yaml:2: an integer of more than 64 bits, got 0xfff"),
        ("example:\n  count: -9223372036854775809\n", "params.yaml:2: an integer of more than 64 bits, got -9223372036854775809; give"),
        ("example: " + "[" * 5000, "params.yaml: nested too deeply; "),
        ("example:\n  flag: !!bool 是\n", "params.yaml: not valid YAML, got "),
        ("example:\n  name: !!timestamp x\n", "params.yaml: not valid YAML, got "),
        ('example:\n  name: "\\ud800"\n', r"params.yaml:2: half of a surrogate pair is no character, got \ud800; write"),
        ('example:\n  "\\udc00": 1\n', "params.yaml:2: half of a surrogate pair is no character"),
        ("example:\n  1: 剂量\n  true: dose\n", "params.yaml:2: a key is not text, got 1; correct it, or put it in quotes"),
        ("example:\n  rate: 1.0\n  true: 1\n", "params.yaml:3: a key is not text, got True"),
    ],
)
def test_what_yaml_cannot_construct_is_one_line(tmp_path: Path, text: str, message: str) -> None:
    got = error_of(tmp_path, text)
    assert got.startswith(message)
    assert "\n" not in got


@pytest.mark.parametrize("section", ["false", "0", "[]", "''", "[1]", "剂量"])
def test_a_section_that_is_not_a_mapping_is_refused(tmp_path: Path, section: str) -> None:
    assert error_of(tmp_path, f"example: {section}\n").startswith("params.yaml: example: expected a mapping of keys, got ")


@pytest.mark.parametrize("section", ["", "{}", "null"])
def test_an_empty_section_is_all_defaults(tmp_path: Path, section: str) -> None:
    assert load(tmp_path, f"example: {section}\n") == Example()


@pytest.mark.parametrize("value", [".inf", "-.inf", ".nan", "1e999"])
def test_numbers_are_finite(tmp_path: Path, value: str) -> None:
    assert error_of(tmp_path, f"example:\n  rate: {value}\n").startswith("params.yaml: example.rate: input should be ")


def test_a_directory_is_no_params_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r": a directory, not a file; name a YAML file"):
        read_params(tmp_path)


def test_off_is_the_word_that_dvc_reads_not_false(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_text("a: {b: off, c: yes, d: true, e: False}\n", encoding="utf-8")
    assert read_params(path) == {"a": {"b": "off", "c": "yes", "d": True, "e": False}}
