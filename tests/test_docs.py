"""Both READMEs say what the code does, and say the same: params, metrics, stages, verbs, exit codes, commands, links.

`test_no_placeholder_is_left` is the one check that fails while a figure has not been measured yet: look for `TODO-FIGURE:`.
"""

from __future__ import annotations

import argparse
import ast
import importlib
import json
import re
import tomllib
from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args, get_origin

import annotated_types
import pytest
import yaml
from conftest import ROOT
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from medcot import audit, checks, cli, errors, ledger, mapping, template, text
from medcot.params import Params, read_params
from medcot.train_params import TrainParams

ENGLISH, CHINESE = "README.md", "README.zh-CN.md"
READMES = [ENGLISH, CHINESE]
FURTHER = {
    ENGLISH: ["docs/reference.md", "docs/curation.md", "docs/scaling.md", "docs/evaluation.md", "docs/training.md"],
    CHINESE: [
        "docs/reference.zh-CN.md",
        "docs/curation.zh-CN.md",
        "docs/scaling.zh-CN.md",
        "docs/evaluation.zh-CN.md",
        "docs/training.zh-CN.md",
    ],
}
DOCUMENTS = [*READMES, *FURTHER[ENGLISH], *FURTHER[CHINESE], "CONTRIBUTING.md", "CHANGELOG.md"]
CLASSES = {
    "download": ("stages.download", "DownloadParams"),
    "normalize": ("stages.normalize", "NormalizeParams"),
    "dedup": ("medcot.dedup_params", "DedupParams"),
    "decontaminate": ("stages.decontaminate", "DecontaminateParams"),
    "model": ("medcot.model_params", "ModelParams"),
    "base": ("stages.base", "BaseParams"),
    "convert": ("stages.convert", "ConvertParams"),
    "curation": ("stages.curation", "CurationParams"),
    "evaluate": ("medcot.evaluate_params", "EvaluateParams"),
    "verdict": ("medcot.verdict_params", "VerdictParams"),
    "report": ("stages.report", "ReportParams"),
    "train": ("medcot.train_params", "TrainParams"),
}
STAGES: dict[str, Any] = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
CODE_SPAN = re.compile(r"`([^`]+)`")
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
MAX_LINES = 400  # what is only looked up stands in the reference


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def pages(name: str) -> str:
    """A document, and for a README the pages in docs after it: together they say everything once."""
    return "\n".join(read(page) for page in (name, *FURTHER.get(name, ())))


def prose(name: str) -> str:
    """A document's pages without their fenced blocks, whose lines are no headings and no tables."""
    return FENCE.sub("", pages(name))


def blocks(name: str) -> list[tuple[str, str]]:
    """Language and content of every fenced block; shell comments, which are translated, are left out."""
    found = FENCE.findall(pages(name))
    return [(language, re.sub(r"\s+#\s.*$", "", body, flags=re.MULTILINE).strip()) for language, body in found]


def headings(name: str) -> list[str]:
    return re.findall(r"^#+ .+$", prose(name), re.MULTILINE)


def spans(cell: str) -> tuple[str, ...]:
    return tuple(CODE_SPAN.findall(cell))


def tables(name: str) -> list[list[list[str]]]:
    """Every table as rows of cells, header and rule left out."""
    runs = re.findall(r"(?:^\|.*\n)+", prose(name) + "\n", re.MULTILINE)
    return [[[cell.strip() for cell in line.strip("|").split("|")] for line in run.splitlines()[2:]] for run in runs]


def rows_of(name: str) -> Iterator[list[str]]:
    return (row for table in tables(name) for row in table)


class Documented(NamedTuple):
    """One params key as the code has it: the value in params.yaml, else the class's default, and its field."""

    key: str
    value: Any
    field: FieldInfo


def documented(prefix: str, cls: type[BaseModel], values: dict[str, Any]) -> Iterator[Documented]:
    for name, field in cls.model_fields.items():
        key, nested = f"{prefix}.{name}", nested_class(field)
        if nested:
            yield from documented(key, nested, values.get(name) or {})
        else:
            yield Documented(key, values.get(name, None if field.is_required() else field.default), field)


def nested_class(field: FieldInfo) -> type[Params] | None:
    options = get_args(field.annotation) or (field.annotation,)
    return next((option for option in options if isinstance(option, type) and issubclass(option, Params)), None)


def params_keys() -> list[Documented]:
    content = read_params(ROOT / "params.yaml")
    found: list[Documented] = []
    for section, (module, name) in CLASSES.items():
        found += documented(section, getattr(importlib.import_module(module), name), content[section])
    return found


def shown(value: Any) -> str:
    """A value as the tables show it: text bare, an empty text as two quotes, a list by its length, nothing as a dash."""
    if value is None:
        return "—"
    if isinstance(value, list):
        return str(len(value))
    return json.dumps(value) if isinstance(value, bool) or value == "" else str(value)


def allowed(field: FieldInfo) -> tuple[str, ...]:
    """What the class admits, as the tables show it: choices one by one, a number's interval; nothing for free text."""
    if get_origin(field.annotation) is Literal:
        return get_args(field.annotation)
    if field.annotation is bool:
        return ("true", "false")
    return (interval(field),) if field.annotation in (int, float) else ()


def interval(field: FieldInfo) -> str:
    low, high = "(-∞", "∞)"
    for bound in field.metadata:
        match bound:
            case annotated_types.Ge(ge=value):
                low = f"[{value}"
            case annotated_types.Gt(gt=value):
                low = f"({value}"
            case annotated_types.Le(le=value):
                high = f"{value}]"
            case annotated_types.Lt(lt=value):
                high = f"{value})"
    return f"{plain(low)}, {plain(high)}"


def plain(bound: str) -> str:
    return re.sub(r"\.0(?=[\])]|$)", "", bound)


class ParamsRow(NamedTuple):
    """What a README says of one params key; keys that share a line share its text and have their defaults in the same order."""

    default: str
    allowed: tuple[str, ...]
    meaning: str


def params_rows(name: str) -> dict[str, ParamsRow]:
    sections = tuple(f"{section}." for section in CLASSES)
    found: dict[str, ParamsRow] = {}
    for row in (row for row in rows_of(name) if len(row) == 4 and spans(row[0])[:1] and spans(row[0])[0].startswith(sections)):
        keys = spans(row[0])
        defaults = spans(row[1]) or (row[1],) * len(keys)
        found |= {key: ParamsRow(default, spans(row[2]), row[3]) for key, default in zip(keys, defaults, strict=True)}
    return found


def exit_codes() -> set[int]:
    """The codes that run_stage can return: its own returns and report's, and those of the project's errors."""
    tree = ast.parse(read("medcot/stage.py"))
    ways = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name in ("run_stage", "report")]
    returns = [node.value for way in ways for node in ast.walk(way) if isinstance(node, ast.Return)]
    values = [arg for value in returns for arg in (value.args if isinstance(value, ast.Call) else [value])]
    own = {value.value for value in values if isinstance(value, ast.Constant) and isinstance(value.value, int)}
    classes = [value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, errors.MedcotError)]
    return own | {cls.exit_code for cls in classes}


def documented_metrics(name: str, stage: str) -> list[str]:
    """The metric keys and patterns that a README lists for a stage."""
    rows = [row for row in rows_of(name) if len(row) == 3 and stage in spans(row[0])]
    return [key for row in rows for key in spans(row[1])]


def as_regex(key: str) -> re.Pattern[str]:
    return re.compile(re.sub(r"<\w+>", r"[a-z0-9_]+", re.escape(key).replace(r"\<", "<").replace(r"\>", ">")))


def flatten(values: dict[str, Any], prefix: str = "") -> Iterator[str]:
    for key, value in values.items():
        if isinstance(value, dict):
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}"


def anchor(heading: str) -> str:
    """The fragment that a heading gets on a code host: lower case, punctuation gone, spaces to hyphens."""
    return re.sub(r"[^\w\- ]", "", heading.lstrip("# ").lower()).replace(" ", "-")


def test_no_placeholder_is_left() -> None:
    """Fails until every figure is measured and filled in; every other test here passes before that."""
    left = {f"{name}: {found}" for name in DOCUMENTS for found in re.findall(r"TODO[\w:.-]*|FIXME|XXX", read(name))}
    assert sorted(left) == []


@pytest.mark.parametrize("name", READMES)
def test_the_two_commands_come_first(name: str) -> None:
    assert blocks(name)[0] == ("bash", "make repro\nmake test")
    assert {"make repro", "make test"} <= set(read(".ci/run").splitlines())


@pytest.mark.parametrize("name", READMES)
def test_a_readme_stays_short_enough_to_read(name: str) -> None:
    assert len(read(name).splitlines()) <= MAX_LINES


@pytest.mark.parametrize("name", READMES)
def test_the_python_version_is_the_one_that_pyproject_requires(name: str) -> None:
    wanted = tomllib.loads(read("pyproject.toml"))["project"]["requires-python"].removeprefix(">=")
    assert f"Python ≥ {wanted}" in read(name)


@pytest.mark.parametrize("name", DOCUMENTS)
def test_every_make_target_that_is_named_exists(name: str) -> None:
    targets = set(re.findall(r"^([a-z-]+):", read("Makefile"), re.MULTILINE))
    named = set(re.findall(r"\bmake ([a-z-]+)\b", "\n".join([*spans(prose(name)), *(body for _, body in blocks(name))])))
    assert named <= targets


@pytest.mark.parametrize("name", READMES)
def test_params_table_holds_exactly_the_keys_of_the_classes(name: str) -> None:
    assert sorted(params_rows(name)) == sorted(item.key for item in params_keys())


@pytest.mark.parametrize("name", READMES)
def test_params_table_shows_the_current_defaults(name: str) -> None:
    rows = params_rows(name)
    wrong = {item.key: rows[item.key].default for item in params_keys() if rows[item.key].default != shown(item.value)}
    assert wrong == {}


@pytest.mark.parametrize("name", READMES)
def test_params_table_shows_what_each_class_admits(name: str) -> None:
    rows = params_rows(name)
    wrong = {item.key: rows[item.key].allowed for item in params_keys() if rows[item.key].allowed != allowed(item.field)}
    assert wrong == {}


@pytest.mark.parametrize("name", READMES)
def test_every_params_key_is_explained(name: str) -> None:
    assert [key for key, row in params_rows(name).items() if len(row.meaning) < 4] == []


def test_params_yaml_names_every_key_but_those_with_a_default_of_their_own() -> None:
    content = read_params(ROOT / "params.yaml")
    in_file = {f"{section}.{key}" for section, values in content.items() for key in flatten(values)}
    assert in_file <= {item.key for item in params_keys()}


@pytest.mark.parametrize("name", READMES)
def test_every_stage_is_in_the_diagram_and_has_its_command(name: str) -> None:
    diagram = next(body for language, body in blocks(name) if language == "mermaid")
    assert [stage for stage in STAGES if not re.search(rf"\b{stage}\b", diagram)] == []
    listed = [
        spans(row[0])[0] for table in tables(name) for row in table if len(row) == 4 and spans(row[0])[:1] and spans(row[0])[0] in STAGES
    ]
    assert listed == list(STAGES)


@pytest.mark.parametrize("name", READMES)
def test_the_stage_table_names_every_output(name: str) -> None:
    for row in (row for row in rows_of(name) if len(row) == 4 and spans(row[0])[:1] and spans(row[0])[0] in STAGES):
        outs = [out for out in STAGES[spans(row[0])[0]]["outs"] if not out.startswith("data/ledger/parts/")]
        assert list(spans(row[2])) == outs


@pytest.mark.parametrize("name", READMES)
def test_every_verb_and_option_is_listed_and_no_other(name: str) -> None:
    verbs = argparse.ArgumentParser().add_subparsers()
    for add in cli.VERBS:
        add(verbs)
    rows = {command.split()[1]: row for row in rows_of(name) for command in spans(row[0])[:1] if command.startswith("medcot ")}
    assert sorted(rows) == sorted(verbs.choices)
    for verb, parser in verbs.choices.items():
        options = [option for action in parser._actions for option in action.option_strings if option.startswith("--")]
        assert [option for option in options if option not in " ".join(rows[verb]) and option != "--help"] == []


@pytest.mark.parametrize("name", READMES)
def test_every_exit_code_is_listed_and_no_other(name: str) -> None:
    listed = {int(row[0].strip("`")) for row in rows_of(name) if re.fullmatch(r"`\d+`", row[0])}
    assert exit_codes() <= listed
    # 1 is kept for a gate that does not exist yet; 255 is what dvc returns for any failure.
    assert listed - exit_codes() == {1, 255}


def test_the_exit_codes_are_found_in_the_source() -> None:
    assert exit_codes() == {0, 2, 3, 4, 130, 143}


@pytest.mark.parametrize("name", READMES)
def test_every_environment_variable_is_listed_and_no_other(name: str) -> None:
    files = [*(ROOT / "medcot").glob("*.py"), *(ROOT / "stages").glob("*.py"), ROOT / "tests" / "conftest.py"]
    used = {found for path in files for found in re.findall(r'"(MEDCOT_[A-Z_]+)"', path.read_text(encoding="utf-8"))}
    assert {span for row in rows_of(name) for span in spans(row[0]) if span.startswith("MEDCOT_")} == used


@pytest.mark.parametrize("name", READMES)
@pytest.mark.parametrize("path", sorted((ROOT / "metrics").glob("*.json")), ids=lambda path: str(path.stem))
def test_every_metric_of_the_last_run_is_documented(path: Path, name: str) -> None:
    patterns = [as_regex(key) for key in documented_metrics(name, path.stem)]
    keys = set(flatten(json.loads(path.read_text(encoding="utf-8")))) - {"schema_version"}
    assert sorted(key for key in keys if not any(pattern.fullmatch(key) for pattern in patterns)) == []


@pytest.mark.parametrize("name", READMES)
@pytest.mark.parametrize("path", sorted((ROOT / "metrics").glob("*.json")), ids=lambda path: str(path.stem))
def test_every_documented_metric_was_written_by_the_last_run(path: Path, name: str) -> None:
    keys = set(flatten(json.loads(path.read_text(encoding="utf-8"))))
    patterns = documented_metrics(name, path.stem)
    assert patterns
    # `hub.` is written when a hub is the source; tests/test_hub.py and tests/test_hub_model.py compare those keys.
    patterns = [key for key in patterns if not key.startswith("hub.")]
    assert [key for key in patterns if not any(as_regex(key).fullmatch(found) for found in keys)] == []


@pytest.mark.parametrize("name", READMES)
def test_the_ledger_table_has_the_columns_of_the_schema(name: str) -> None:
    columns = [span for row in rows_of(name) if len(row) == 2 for span in spans(row[0]) if span in ledger.SCHEMA]
    assert columns == list(ledger.SCHEMA)


@pytest.mark.parametrize("name", READMES)
def test_every_rule_and_refusal_code_is_named(name: str) -> None:
    known = [*checks.CODES, *(rule.name for rule in text.RULES), *audit.CODES, "bridges_splits", "cutoff_len", "max_samples"]
    listed = {span for row in rows_of(name) for cell in row for span in spans(cell)}
    assert [code for code in known if code not in listed and code != "too_long"] == []


@pytest.mark.parametrize("name", READMES)
def test_every_template_and_mapping_is_named(name: str) -> None:
    listed = set(spans(prose(name)))
    assert {*template.TEMPLATES, *mapping.MAPPINGS, *(column for m in mapping.MAPPINGS.values() for column in m.columns)} <= listed


def test_both_readmes_have_the_same_headings_in_the_same_order() -> None:
    levels = [[heading.split(" ")[0] for heading in headings(name)] for name in READMES]
    assert levels[0] == levels[1]
    assert [spans(a) for a in headings(ENGLISH)] == [spans(b) for b in headings(CHINESE)]


def test_both_readmes_have_the_same_code_blocks() -> None:
    for ours, theirs in zip_longest(blocks(ENGLISH), blocks(CHINESE)):
        assert ours == theirs


def test_both_readmes_have_the_same_tables() -> None:
    for ours, theirs in zip_longest(tables(ENGLISH), tables(CHINESE), fillvalue=[]):
        assert [spans(row[0]) for row in ours] == [spans(row[0]) for row in theirs]
        assert [len(row) for row in ours] == [len(row) for row in theirs]


def test_both_readmes_name_the_same_figures() -> None:
    """Numbers in the tables are facts: a correction in one language must reach the other."""
    for ours, theirs in zip_longest(rows_of(ENGLISH), rows_of(CHINESE), fillvalue=[]):
        assert numbers(ours) == numbers(theirs), ours


def numbers(row: list[str]) -> list[float]:
    found = re.findall(r"(?<![\w.])\d+(?:\.\d+)?(?![\w.])", " ".join(CODE_SPAN.sub("", cell) for cell in row))
    return sorted(float(number) for number in found)


@pytest.mark.parametrize("name", DOCUMENTS)
def test_relative_links_and_anchors_resolve(name: str) -> None:
    for target in re.findall(r"\]\(([^)]+)\)", FENCE.sub("", read(name))):
        path, _, fragment = target.partition("#")
        if "://" in path:
            continue
        document = (ROOT / name).parent / path if path else ROOT / name
        assert document.exists(), target
        own = re.findall(r"^#+ .+$", FENCE.sub("", document.read_text(encoding="utf-8")), re.MULTILINE) if fragment else []
        assert not fragment or fragment in {anchor(heading) for heading in own}, target


@pytest.mark.parametrize("name", DOCUMENTS)
def test_documents_name_no_place_of_one_machine(name: str) -> None:
    assert re.findall(r"(?:/home/|/Users/|/tmp/|[A-Z]:\\)\S*", read(name)) == []


def test_chinese_text_is_written_with_chinese_punctuation() -> None:
    """A half-width comma, colon or full stop between two Han characters is a typing slip."""
    assert re.findall(r"[一-鿿][,;:?!.][一-鿿]", prose(CHINESE)) == []


def test_the_sample_corpus_has_the_rows_and_flaws_that_the_readmes_state() -> None:
    num_rows, num_flaws = (len(read(f"data/sample/{name}").splitlines()) for name in ("records.jsonl", "manifest.csv"))
    for name in READMES:
        found = [int(number) for number in re.findall(r"(?<=[（( ])\d{2,}(?= (?:rows|行|of them))", prose(name))]
        assert found[:2] == [num_rows, num_flaws - 1], name


def test_bounds_are_shown_with_their_open_and_closed_ends() -> None:
    fields = TrainParams.model_fields
    assert interval(fields["lora_dropout"]) == "[0, 1)"
    assert interval(fields["lora_alpha"]) == "(0, ∞)"
    assert interval(fields["lora_rank"]) == "[1, 1024]"
    assert allowed(fields["use_dora"]) == ("true", "false")
    assert allowed(fields["lora_target"]) == ()


def test_a_metric_pattern_covers_one_name_and_no_deeper_one() -> None:
    assert as_regex("<segment>.delta.nll").fullmatch("all.delta.nll")
    assert not as_regex("<segment>.nll").fullmatch("all.delta.nll")
    assert not as_regex("num_refused_<code>").fullmatch("num_kept")
