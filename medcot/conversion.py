"""Turn survivors into training rows: nothing too long, nothing the audit refuses, no near-duplicate across two splits.

On request train is thinned out by caps and balance, and then only augmented: synthetic rows are made from what is left of train.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import polars as pl

from medcot.audit import CODES, Auditor, Refusal
from medcot.augmentation import Augmented, augment
from medcot.hooks import Hook
from medcot.ledger import Event, check_stage
from medcot.model_params import ModelParams
from medcot.records import Record
from medcot.selection import SelectionParams, select
from medcot.splits import SPLITS, Pair, Split, find_bridges
from medcot.template import encode, get_template
from medcot.tokenizer import ChatTokenizer

EVERY_ROW = SelectionParams()
REFUSAL_CODES = tuple(code for code in CODES if code != "too_long")  # a row that is too long is removed, not refused


@dataclass(frozen=True)
class Converted:
    """What convert made of its records: the rows by split, one event for each record, each record's length in tokens.

    augmented  the synthetic rows, which are in rows["train"] too, and their events
    """

    rows: dict[Split, list[Record]]
    events: list[Event]
    num_tokens: dict[str, int]
    augmented: Augmented = field(default_factory=Augmented)

    @property
    def audit_refusals(self) -> list[Refusal]:
        """Every refusal of the label audit, in the order of the records."""
        return [Refusal(event.rule, event.detail or "") for event in self.events if event.rule in REFUSAL_CODES]


def convert(
    records: Sequence[Record],
    pairs: Iterable[Pair],
    tok: ChatTokenizer,
    model: ModelParams,
    assign: Callable[[str], Split],
    selection: SelectionParams = EVERY_ROW,
    seed: int = 42,
    hooks: Mapping[str, Hook] | None = None,
) -> Converted:
    """Remove what is too long, refuse what fails the audit or ties two splits together, split the rest, thin out and augment train.

    assign  gives a question its split. seed  of the order in which selection keeps rows.
    Raises DataError when the template does not fit the tokenizer, or for a hook that gives no texts.
    """
    ended, lengths = _audit(records, tok, model)
    live = [record for record in records if record.id not in ended]
    splits = {record.id: assign(record.question) for record in live}
    for row, related, similarity in find_bridges(splits, pairs):
        detail = f"{splits[row]}, near-duplicate of a row in {splits[related]}"
        ended[row] = Event(row, "convert", "refused", "bridges_splits", detail, related, similarity, num_tokens=lengths[row])
    train = [record for record in live if record.id not in ended and splits[record.id] == "train"]
    ended |= {event.id: replace(event, num_tokens=lengths[event.id]) for event in select(train, selection, seed)}
    ended |= {record.id: _beaten(ended[record.id]) for record in records if record.decision and record.id in ended}
    kept = [record for record in live if record.id not in ended]
    ids = [record.id for record in records]
    check_stage("convert", ids, [record.id for record in kept], list(ended))
    events = [ended.get(i) or Event(i, "convert", "kept", "kept", split=splits[i], num_tokens=lengths[i]) for i in ids]
    rows = {split: [record for record in kept if splits[record.id] == split] for split in SPLITS}
    augmented = augment(rows["train"], [*rows["val"], *rows["test"]], hooks or {}, assign, lambda new: _audit(new, tok, model))
    rows["train"] = sorted([*rows["train"], *augmented.rows], key=lambda record: record.id) if augmented.rows else rows["train"]
    return Converted(rows, events, lengths, augmented)


def _beaten(event: Event) -> Event:
    return replace(event, detail=f"{event.detail or event.rule}; the curator's decision has no effect on this")


def _audit(records: Sequence[Record], tok: ChatTokenizer, model: ModelParams) -> tuple[dict[str, Event], dict[str, int]]:
    """The events of rows that go no further, and every row's length in tokens."""
    template = get_template(model.template)
    auditor = Auditor(tok, template, model.system, model.cutoff_len)
    ended: dict[str, Event] = {}
    lengths: dict[str, int] = {}
    for record in records:
        encoded = encode(tok, template, record.question, record.reasoning, record.answer, model.system)
        lengths[record.id] = num_tokens = len(encoded.input_ids)
        refusal = auditor.check(record, encoded)
        if refusal and refusal.code == "too_long":
            ended[record.id] = Event(record.id, "convert", "removed", "cutoff_len", refusal.detail, num_tokens=num_tokens)
        elif refusal:
            ended[record.id] = Event(record.id, "convert", "refused", refusal.code, refusal.detail, num_tokens=num_tokens)
    return ended, lengths


def summarise(result: Converted) -> dict[str, Any]:
    """Counts, and token lengths over all rows that came in; num_input == num_kept + num_removed_* + num_refused_*.

    Synthetic rows are counted apart: num_kept + num_synthetic == num_train + num_val + num_test.
    """
    lengths = pl.Series(list(result.num_tokens.values()), dtype=pl.Int64)
    rules = Counter(event.rule for event in result.events)
    quantiles = {name: lengths.quantile(q, "higher") for name, q in (("median", 0.5), ("p95", 0.95), ("p99", 0.99), ("max", 1.0))}
    tokens = {"mean": lengths.mean(), **{name: int(value) for name, value in quantiles.items() if value is not None}}
    return {
        "num_input": len(result.events),
        "num_kept": rules["kept"],
        **{f"num_{split}": len(rows) for split, rows in result.rows.items()},
        **{f"num_removed_{rule}": rules[rule] for rule in ("cutoff_len", "source_cap", "class_balance")},
        **{f"num_refused_{code}": rules[code] for code in (*REFUSAL_CODES, "bridges_splits")},
        "num_synthetic": len(result.augmented.rows),
        "num_synthetic_refused": result.augmented.num_refused,
        "num_tokens": tokens,
        "suggested_cutoff_len": tokens["p99"],
    }
