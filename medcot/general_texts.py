"""General texts: what has nothing to do with medicine, and whose likelihood says how much of the rest a fine-tune has kept."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from medcot.benchmarks import Item, benchmark_name, entries, read_benchmarks
from medcot.errors import DataError
from medcot.sources import READERS, read_rows
from medcot.text import find_control_token

Unfit = Literal["no_text", "control_token"]
COLUMNS = ("instruction", "text")  # a general file whose rows have one of these, and no question, holds texts


@dataclass(frozen=True, slots=True)
class GeneralText:
    """A general text whose likelihood is measured: after its prompt, as an answer, or alone where the prompt is empty."""

    id: str
    prompt: str
    text: str


def read_general_items(folder: Path, further: Mapping[str, Path] | None = None) -> list[Item]:
    """Everything in a folder of general files, and in further files by name, as items that training rows can be compared with.

    A question is an item as a benchmark's is; so is a text, its prompt as the case. Raises DataError as the readers do.
    """
    texts = text_files(folder, further or {})
    questions = {name: path for name, path in (further or {}).items() if name not in texts}
    read = [(name, text) for name, path in sorted(texts.items()) for text in read_texts(path, name) if unfit_text(text) is None]
    items = [Item(text.id.removeprefix(f"{name}:"), name, text.text, case=text.prompt) for name, text in read]
    return sorted([*read_benchmarks(folder, questions, set(texts.values())), *items], key=lambda item: (item.benchmark, item.id))


def text_files(folder: Path, further: Mapping[str, Path]) -> dict[str, Path]:
    """The files that hold texts, of a folder and of further files, by name."""
    found = {benchmark_name(path): path for path in entries(folder) if holds_texts(path)}
    return found | {name: path for name, path in further.items() if holds_texts(path)}


def holds_texts(path: Path) -> bool:
    """Whether a file is one of texts: told by the columns of its first row that can be read."""
    if not path.is_file() or path.suffix.lower() not in READERS:
        return False
    columns: set[str] = next((set(row.values) for row in read_rows(path) if row.values is not None), set())
    return bool(columns.intersection(COLUMNS)) and not columns & {"question", "Question", "problem_text"}


def read_texts(path: Path, name: str) -> list[GeneralText]:
    """Read general texts: instruction, input and output (a prompt and its answer); or text, after a prompt where there is one.

    Ids are `name:` and the row's own id, else its number from 0; a text may be empty. Raises DataError for a row that cannot be
    read or has no text, and for an id that stands twice.
    """
    texts: dict[str, GeneralText] = {}
    for number, row in enumerate(read_rows(path)):
        values, place = row.values or {}, f"{path}: row {number}"
        prompt = "\n".join(str(values[key]) for key in ("prompt", "instruction", "input") if values.get(key))
        text = values.get("output", values.get("text"))
        if not isinstance(text, str):
            cause = "no text in column output or text" if row.values is not None else f"cannot be read: {row.error}"
            raise DataError(place, cause, "give instruction and output, or text; or remove the row")
        own = f"{name}:{values.get('id', number)}"
        if own in texts:
            raise DataError(place, "an id stands twice", "make the ids unique, or take the column out", got=own)
        texts[own] = GeneralText(own, prompt, text)
    return list(texts.values())


def unfit_text(text: GeneralText) -> Unfit | None:
    """Say why a text cannot be measured, or None: nothing in it, or a control token that would end its turn."""
    if not text.text.strip():
        return "no_text"
    return "control_token" if find_control_token(text.prompt) or find_control_token(text.text) else None
