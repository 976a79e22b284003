"""LLaMA-Factory's files: rows in alpaca or sharegpt form, dataset_info.json and a train YAML. The one writer and the one reader.

LLaMA-Factory opens dataset_info.json without an encoding, so it is ASCII; with `columns` present every column not listed is
None, so all of ours are listed. Never `formatting: openai`: its converter puts "detailed thinking off" into every row.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from medcot.errors import DataError
from medcot.model_params import ModelParams
from medcot.records import Record
from medcot.template import THINK_CLOSE, THINK_OPEN, Template, get_template, render_target
from medcot.tokenizer import ChatTokenizer

Format = Literal["alpaca", "sharegpt"]
ENTRIES = {"train": "med_o1", "val": "med_o1_val", "test": "med_o1_test"}


@dataclass(frozen=True, slots=True)
class Row:
    """A row as train and evaluate read it: what the template is filled with."""

    id: str
    question: str
    reasoning: str
    answer: str


def split_target(text: str) -> tuple[str, str] | None:
    """Take reasoning and answer out of a target; None unless it holds exactly one think pair in exactly our spelling."""
    if text.count("<think>") != 1 or text.count("</think>") != 1 or not text.startswith(THINK_OPEN):
        return None
    reasoning, close, answer = text[len(THINK_OPEN) :].partition(THINK_CLOSE)
    return (reasoning, answer) if close else None


def render_row(record: Record | Row, template: Template, system: str, form: Format) -> dict[str, Any]:
    """Render a row for LLaMA-Factory; its template adds exactly what is missing to our prompt and target."""
    user, target = template.instruction + record.question, render_target(record.reasoning, record.answer)
    if form == "alpaca":
        row: dict[str, Any] = {"id": record.id, "instruction": user, "input": "", "output": target}
    else:
        row = {"id": record.id, "conversations": [{"from": "human", "value": user}, {"from": "gpt", "value": target}]}
    return {**row, "system": template.llamafactory_system.replace("{system}", system)} if system else row


def write_rows(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Write rows as one JSON array, a row a line, UTF-8."""
    body = ",\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    path.write_text(f"[\n{body}\n]\n" if body else "[]\n", encoding="utf-8", newline="\n")


def read_rows(path: Path, template: Template) -> list[Row]:
    """Read a split back, alpaca or sharegpt: the inverse of render_row.

    Raises DataError for a file or row that convert did not write under this template.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(str(path), "the split is missing", "run stage convert first") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise DataError(str(path), "not valid JSON", "run `dvc repro -f convert`", got=str(error)) from None
    if not isinstance(content, list):
        raise DataError(str(path), "expected an array of rows", "run `dvc repro -f convert`")
    return [_read_row(f"{path}:{i}", row, template) for i, row in enumerate(content)]


def _read_row(place: str, row: Any, template: Template) -> Row:
    try:
        user, target = (turn["value"] for turn in row["conversations"]) if "conversations" in row else (row["instruction"], row["output"])
        row_id, parts = row["id"], split_target(target)
    except (KeyError, TypeError, ValueError, AttributeError):
        raise DataError(place, "not a row that convert wrote", "run `dvc repro -f convert`", got=row) from None
    if parts is None or not user.startswith(template.instruction):
        raise DataError(place, f"not a row of template {template.name}", "run `dvc repro -f convert`", got=target)
    return Row(row_id, user[len(template.instruction) :], *parts)


def dataset_info(form: Format, with_system: bool) -> str:
    """The text of dataset_info.json: ASCII, every column and tag spelled out."""
    if form == "alpaca":
        spec: dict[str, Any] = {
            "formatting": "alpaca",
            "columns": {"prompt": "instruction", "query": "input", "response": "output"},
        }
    else:
        tags = {"role_tag": "from", "content_tag": "value", "user_tag": "human", "assistant_tag": "gpt"}
        spec = {"formatting": "sharegpt", "columns": {"messages": "conversations"}, "tags": tags}
    if with_system:
        spec["columns"]["system"] = "system"
    info = {entry: {"file_name": f"{split}.json", **spec} for split, entry in ENTRIES.items()}
    return json.dumps(info, indent=2, ensure_ascii=True) + "\n"


def train_yaml(template: Template, cutoff_len: int, quantization: str, with_val: bool, directory: str) -> str:
    """The text of train.yaml: the half of a LLaMA-Factory config that the data decides.

    cutoff_len  the longest row in tokens as LLaMA-Factory counts it, with its template's suffix after EOS
    directory   where the rows lie, as seen from the directory that LLaMA-Factory is started in
    """
    lines: Sequence[str] = (
        "# Train on these rows in LLaMA-Factory instead of stage `train`, then come back for `evaluate` with train.adapter:",
        "#   llamafactory-cli train data/llamafactory/train.yaml model_name_or_path=DIR output_dir=DIR learning_rate=1.0e-4 ...",
        "# Only what the data decides is here. Hyper-parameters belong to `train`: were they written here, a new learning rate",
        "# would run convert again.",
        "stage: sft",
        "do_train: true",
        f"template: {template.llamafactory}",
        "enable_thinking: true  # false would delete every chain of thought",
        'default_system: ""  # rows carry their own; some templates bring a default',
        f"dataset: {ENTRIES['train']}",
        *([f"eval_dataset: {ENTRIES['val']}"] if with_val else []),
        f"dataset_dir: {directory}",
        f"cutoff_len: {cutoff_len}  # with what the template puts after EOS; no row is cut",
        "finetuning_type: lora",
        *(
            ["quantization_method: bnb", "quantization_bit: 4", "quantization_type: nf4", "double_quantization: true"]
            * (quantization == "nf4")
        ),
    )
    return "\n".join(lines) + "\n"


def write_dataset(
    out: Path,
    rows: Mapping[Any, Sequence[Record]],
    tok: ChatTokenizer,
    model: ModelParams,
    form: Format,
    directory: str,
    synthetic: Mapping[str, str] | None = None,
) -> None:
    """Write the splits with their description and train YAML into a directory.

    rows       the rows of train, val and test
    directory  what train.yaml calls the directory
    synthetic  id → hook of the synthetic rows; where there are any, every row of train says in `synthetic` which hook made it, or ""
    """
    template = get_template(model.template)
    for split in ENTRIES:
        marks = synthetic if synthetic and split == "train" else None
        rendered = ((row.id, render_row(row, template, model.system, form)) for row in rows[split])
        write_rows(out / f"{split}.json", (row if marks is None else {**row, "synthetic": marks.get(i, "")} for i, row in rendered))
    (out / "dataset_info.json").write_text(dataset_info(form, bool(model.system)), encoding="ascii")
    cutoff_len = model.cutoff_len + len(tok.encode(template.llamafactory_suffix))
    config = train_yaml(template, cutoff_len, model.quantization, bool(rows["val"]), directory)
    (out / "train.yaml").write_text(config, encoding="utf-8")
