"""Section `dedup` of params.yaml, and what of a record it compares: shared by the stage and by the verbs that look at its choices."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic import Field

from medcot.key_index import KeyParams
from medcot.neardup import Rank, rank
from medcot.params import Params
from medcot.records import TEXT_FIELDS, Record


class DedupParams(Params):
    """Section `dedup` of params.yaml."""

    seed: int = Field(ge=0, lt=2**32)
    """Seed of the MinHash permutations and of the canaries; another seed may find other candidates, never other verdicts."""
    canaries: int = Field(ge=0, le=100_000)
    """Edited copies planted for each key to measure its recall, never written out; raising it narrows the bound. 0 = none."""
    question: KeyParams
    """Near-duplicates by the question alone."""
    row: KeyParams
    """Near-duplicates by question, reasoning and answer together."""


def compared(records: Sequence[Record], params: DedupParams) -> dict[str, tuple[list[str], KeyParams]]:
    """What `neardup.deduplicate` compares: by name of the key, one text a record and the key's params; the whole row comes first."""
    rows = ["\n".join(getattr(record, name) for name in TEXT_FIELDS) for record in records]
    return {"row": (rows, params.row), "question": ([record.question for record in records], params.question)}


def ranks(records: Sequence[Record]) -> Sequence[Rank]:
    """The order in which records are visited; see `neardup.rank`."""
    return _Ranks(records)


class _Ranks(Sequence[Rank]):
    """Ranks made when they are asked for: few records meet another, and to hash them all would take longer than the search."""

    def __init__(self, records: Sequence[Record]) -> None:
        self.records = records

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: Any) -> Any:
        record = self.records[index]
        # A question may end without punctuation; a reasoning or an answer that does was probably cut off.
        return rank((record.reasoning, record.answer), record.id)
