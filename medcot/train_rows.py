"""Tokenised rows with their labels, and the batches that a pass makes of them: rows laid end to end, or padded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.utils.rnn import pad_sequence

from medcot.attention import pack
from medcot.template import MASK


@dataclass(frozen=True, slots=True)
class TrainRow:
    """A tokenised row: ids, labels (MASK over the prompt) and the record's id, for messages."""

    id: str
    input_ids: list[int]
    labels: list[int]


def num_predicted(row: TrainRow) -> int:
    """Supervised tokens of a row; its first token is never predicted, since nothing stands before it."""
    return sum(label != MASK for label in row.labels[1:])


class Collator:
    """Lay rows end to end without padding, or pad them on the right to the longest of the batch; labels of padding are MASK."""

    def __init__(self, pad_id: int, *, packed: bool = False) -> None:
        self.pad_id, self.packed = pad_id, packed

    def __call__(self, rows: Sequence[TrainRow]) -> dict[str, Any]:
        return self._pack(rows) if self.packed else self._pad(rows)

    def _pack(self, rows: Sequence[TrainRow]) -> dict[str, Any]:
        # The first token of a row is predicted from the last of the row before: its label is masked, as nothing stands before it.
        labels = [label for row in rows for label in (MASK, *row.labels[1:])]
        inputs = pack([row.input_ids for row in rows])
        return {**inputs, "labels": torch.tensor([labels])}

    def _pad(self, rows: Sequence[TrainRow]) -> dict[str, Any]:
        ids = [torch.tensor(row.input_ids) for row in rows]
        labels = [torch.tensor(row.labels) for row in rows]
        lengths = torch.tensor([len(row) for row in ids])
        padded = pad_sequence(ids, batch_first=True, padding_value=self.pad_id)
        return {
            "input_ids": padded,
            "attention_mask": (torch.arange(padded.shape[1]) < lengths[:, None]).long(),
            "labels": pad_sequence(labels, batch_first=True, padding_value=MASK),
        }
