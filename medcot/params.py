"""Typed, strict, frozen params: the one reader of `params.yaml`.

Each stage declares one section as a `Params` subclass beside the code that reads it. An unknown key, a wrong type or a value
out of range is one line that names `params.yaml: section.key`, the value and what is allowed.
"""

from __future__ import annotations

import difflib
import re
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from medcot.errors import DataError

PARAMS_FILE = Path("params.yaml")


class Params(BaseModel):
    """Base of every params section; the docstring under a field is its documentation."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False, use_attribute_docstrings=True)


P = TypeVar("P", bound=Params)


class _Loader(yaml.SafeLoader):
    """YAML 1.1 as PyYAML reads it, but with numbers like 5e-06 as floats; keys are text, and none stands twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            place = f"{key_node.start_mark.name}:{key_node.start_mark.line + 1}"
            if not isinstance(key, str):
                raise DataError(place, "a key is not text", "correct it, or put it in quotes", got=repr(key))
            if key in seen:
                raise DataError(place, f"key `{key}` stands twice", "keep one of them")
            seen.add(key)
        return super().construct_mapping(node, deep=deep)

    def construct_scalar(self, node: yaml.ScalarNode | yaml.MappingNode) -> Any:
        value = super().construct_scalar(node)
        if any("\ud800" <= c <= "\udfff" for c in value):
            place = f"{node.start_mark.name}:{node.start_mark.line + 1}"
            raise DataError(place, "half of a surrogate pair is no character", "write the character itself", got=value)
        return value

    def construct_integer(self, node: yaml.ScalarNode) -> int:
        value = self.construct_yaml_int(node)
        if value.bit_length() > 63:  # no seed or size takes more, and Python cannot print thousands of digits
            place = f"{node.start_mark.name}:{node.start_mark.line + 1}"
            raise DataError(place, "an integer of more than 64 bits", "give a smaller one", got=node.value)
        return value


_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_integer)

# `off` is a word, as DVC reads it by YAML 1.2: without quotes YAML 1.1 would take it for false.
_BOOL = "tag:yaml.org,2002:bool"
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != _BOOL] for first, resolvers in _Loader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(_BOOL, re.compile("^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF"))

# `dvc exp run -S train.learning_rate=5e-6` rewrites the file with `5e-06`, which YAML 1.1 reads as a string.
_Loader.add_implicit_resolver("tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"), list("-+0123456789"))


def read_params(path: Path = PARAMS_FILE) -> dict[str, Any]:
    """Read the params file as a mapping of sections.

    Raises DataError when the file is missing, is not YAML, or is not a mapping.
    """
    try:
        with path.open(encoding="utf-8") as file:
            content = yaml.load(file, Loader=_Loader)
    except FileNotFoundError:
        raise DataError(str(path), "the params file is missing", "run from the repository root") from None
    except IsADirectoryError:
        raise DataError(str(path), "a directory, not a file", "name a YAML file") from None
    except RecursionError:
        raise DataError(str(path), "nested too deeply", "write sections of keys, as params.yaml in the repository has them") from None
    # PyYAML lets the errors of Python's own constructors through: an impossible date, thousands of digits, `!!bool x`, `!!timestamp x`.
    except (yaml.YAMLError, ValueError, LookupError, AttributeError) as error:
        raise DataError(str(path), "not valid YAML", "mend the syntax", got=str(error)) from None
    if not isinstance(content, dict):
        raise DataError(str(path), "expected a mapping of sections", "see params.yaml in the repository", got=content)
    return content


def load_section(section: str, cls: type[P], path: Path = PARAMS_FILE) -> P:
    """Load one section of the params file into its typed class.

    Raises DataError for a missing section, an unknown key, a wrong type or a value out of range.
    """
    content = read_params(path)
    if section not in content:
        raise DataError(f"{path}: {section}", "the section is missing", f"add `{section}:` with its keys")
    return parse_section(section, {} if content[section] is None else content[section], cls, place=str(path))


def parse_section(section: str, values: object, cls: type[P], place: str = str(PARAMS_FILE)) -> P:
    """Check one section's values against its class; see load_section."""
    if not isinstance(values, dict):
        raise DataError(f"{place}: {section}", "expected a mapping of keys", "write `key: value` lines under it", got=repr(values))
    try:
        return cls.model_validate(values)
    except ValidationError as error:
        # A misspelt key is also a missing one; the misspelling is what helps.
        first = min(error.errors(), key=lambda e: e["type"] != "extra_forbidden")
        key = ".".join(str(part) for part in (section, *first["loc"]))
        raise DataError(f"{place}: {key}", _cause(first["type"], first["msg"]), _remedy(cls, first), got=first["input"]) from None


def _cause(kind: str, message: str) -> str:
    if kind == "extra_forbidden":
        return "unknown key"
    return message[0].lower() + message[1:]


def _remedy(cls: type[BaseModel], error: Any) -> str:
    """Say what the field is for, or which known key was probably meant."""
    fields: Any = cls
    for part in error["loc"][:-1]:
        annotation = fields.model_fields[part].annotation if part in getattr(fields, "model_fields", {}) else None
        fields = annotation if isinstance(annotation, type) and issubclass(annotation, BaseModel) else fields
    known = getattr(fields, "model_fields", {})
    name = str(error["loc"][-1]) if error["loc"] else ""
    if error["type"] == "extra_forbidden":
        close = difflib.get_close_matches(name, known, n=1)
        return f"did you mean `{close[0]}`?" if close else f"known keys: {', '.join(sorted(known))}"
    if name in known and known[name].description:
        return " ".join(known[name].description.split())
    return "see the comments in params.yaml"
