"""Which file of a data set on a hub is meant, and what it must be; apart from medcot/hub_data.py, which loads the hub's client."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from pydantic import Field

from medcot.errors import DataError
from medcot.params import Params

SECTION = "download.hub"


class HubParams(Params):
    """A file of a data set on a hub; the default is the Chinese file of medical-o1, pinned."""

    platform: Literal["huggingface", "modelscope"] = "huggingface"
    """The hub; its mirror and token come from the environment, never from here."""
    repo: str = "FreedomIntelligence/medical-o1-reasoning-SFT"
    """Id of the data set: owner/name."""
    config: str = ""
    """A configuration of the data set, whose card names the file; used when `file` is empty."""
    file: str = "medical_o1_sft_Chinese.json"
    """The file's path in the data set."""
    revision: str = "fc2c9e8a37b38f38da6d449564a8c350b244aef4"
    """A commit of 40 hex digits; a branch or tag is resolved to one, recorded, and warned of."""
    sha256: str = Field(default="e64b1426723b63899287236d20e9bbaec9f185e1ce4b24e9b61f610facb4369a", pattern=r"^([0-9a-f]{64})?$")
    """The file's sha256 in hex digits; empty = not pinned, and only the hub's own hash is checked."""
    num_rows: int = Field(default=20171, ge=0)
    """How many rows the file must have; 0 = not checked."""


def check_num_rows(params: HubParams, rows: Sequence[Any]) -> None:
    """Refuse a file with another number of rows than the params say."""
    if params.num_rows and len(rows) != params.num_rows:
        cause, remedy = f"expected {params.num_rows} rows", "correct it (0 = not checked), or pin another revision"
        raise DataError(f"params.yaml: {SECTION}.num_rows", cause, remedy, got=len(rows))
