"""The file beside survivors that says by which keys and params they were found, so that later rows are compared by the same."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medcot.errors import DataError
from medcot.key_index import KeyParams
from medcot.params import parse_section

RULES_FILE = "rules.json"


@dataclass(frozen=True, slots=True)
class Rules:
    """The params by key, the row's identity first, and the seed of the permutations."""

    keys: dict[str, KeyParams]
    seed: int


def write_rules(path: Path, rules: Rules) -> None:
    """Write the rules as JSON, the keys in their order."""
    content = {"seed": rules.seed, "keys": {key: params.model_dump() for key, params in rules.keys.items()}}
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8", newline="\n")


def read_rules(directories: Sequence[Path], key: str | None, given: dict[str, Any]) -> Rules:
    """The rules by which all of these directories were de-duplicated.

    Raises DataError where they differ from each other, or from the key and params that are asked for.
    """
    first, *others = [_read(directory / RULES_FILE) for directory in directories]
    for directory, rules in zip(directories[1:], others, strict=True):
        if rules != first:
            raise DataError(f"--against {directory}", f"made by other rules than {directories[0]}", "make one of them again")
    place = f"--against {directories[0]}"
    if key is not None and list(first.keys) != [key]:
        raise DataError(place, f"its rows were compared by {' and '.join(first.keys)}", "leave --key out", got=key)
    for name, value in given.items():
        for params in first.keys.values():
            if getattr(params, name) != value:
                option = f"--{name.replace('_', '-')}"
                was = f"made with {option} {getattr(params, name)}"
                raise DataError(place, was, f"leave {option} out, or de-duplicate the earlier rows again with it", got=value)
    return first


def _read(path: Path) -> Rules:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        keys, seed = dict(content["keys"]), int(content["seed"])
    except (FileNotFoundError, NotADirectoryError):
        remedy = "give data/dedup after `dvc repro dedup`, or the DIR of an earlier `medcot dedup FILE --out DIR`"
        raise DataError(str(path), "no such file", remedy) from None
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(str(path), "the file is damaged", "make the directory again", got=str(error)) from None
    return Rules({key: parse_section(key, values, KeyParams, place=str(path)) for key, values in keys.items()}, seed)
