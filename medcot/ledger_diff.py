"""What changed between two ledgers, record by record, and because of what.

A cause is named only where it can be one. The rule that decided belongs to a stage, and what can change its verdict is that stage's
code, the params of that rule and, of a rule that compares records with each other or of a record that came with another text, all that
changed in the stages before. Where several of these changed, all are named.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import polars as pl

from medcot.checks import CODES
from medcot.ledger import STAGES, TERMINAL
from medcot.revisions import Change
from medcot.sentences import Sentence
from medcot.text import RULES

Kind = Literal["left", "entered", "fate", "text"]
ABSENT, SPLIT = "not_in_source", "another_split"
DECISIONS, BENCHMARKS, TOKENIZER = "data/curation/decisions.csv", "data/benchmarks", "models/base/tokenizer"
CURATOR = "curator"
_TEXT_RULES = {rule.name for rule in RULES} | {"lost_superscript"}
_RENDERED = ("model.template", "model.system", TOKENIZER)
_AUDIT = ("control_token_id", "unknown_token_id", "prompt_mismatch", "target_mismatch", "mask_mismatch", "eos_mismatch")
_SAMPLING = ("download.max_samples", "download.seed")  # a row that they leave out is in the ledger all the same
_SPLITS = ("convert.val_ratio", "convert.test_ratio", "convert.seed")
# Of each rule the params and inputs that can change its verdict, by the beginning of their names; of a rule that is not here, any can.
DEPENDS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(CODES, ()),
    **dict.fromkeys(("exact_copy", "exact_question"), ()),
    **dict.fromkeys(_AUDIT, _RENDERED),
    **dict.fromkeys(
        ("contaminated", "contaminated_cluster"),
        ("decontaminate.", BENCHMARKS, "data/general", "data/suites", "data/sample/benchmark.jsonl", "data/sample/knowledge.jsonl"),
    ),
    **dict.fromkeys(("bridges_splits", SPLIT), _SPLITS),
    CURATOR: (DECISIONS,),
    **dict.fromkeys(("synthetic_fact", "synthetic_split", "synthetic_near", "synthetic_copy"), ("convert.augment", *_SPLITS)),
    "source_cap": ("convert.max_per_source", *_SPLITS),
    "class_balance": ("convert.max_class_ratio", *_SPLITS),
    "near_duplicate": ("dedup.seed", "dedup.question.", "dedup.row."),
    "cutoff_len": ("model.cutoff_len", *_RENDERED),
}
# Rules whose verdict on a record does not depend on the other records; any other may change when those do.
ALONE = {*CODES, *_AUDIT, CURATOR, "cutoff_len", "contaminated", SPLIT}


@dataclass(frozen=True, slots=True)
class Fate:
    """What a ledger says of one record: where its row came in, its texts' hashes at the start and in the end, the rules that changed
    them, what curators decided, and how it ended."""

    id: str
    origin: str
    read_hash: str | None
    text_hash: str | None
    changes: tuple[str, ...]
    decisions: tuple[str, ...]
    stage: str
    action: str
    rule: str
    split: str | None

    @property
    def kept(self) -> bool:
        """Whether the record is trained or measured on."""
        return self.action == "kept"

    @property
    def end(self) -> str:
        """The end in a word or two."""
        return f"kept: {self.split}" if self.kept else self.rule


@dataclass(frozen=True, slots=True)
class Move:
    """One record that is not as it was; before or after is None where its row is not in the source.

    kind    left: kept before, not after; entered: the reverse; fate: another end, kept in both or in none; text: kept, with another text
    rule    what decided: the rule that ended it, SPLIT, ABSENT, or the rules that changed its text
    causes  what can have done it
    """

    kind: Kind
    rule: str
    before: Fate | None
    after: Fate | None
    causes: tuple[Change, ...] = ()

    @property
    def id(self) -> str:
        """The record's id, the later one where it has two."""
        fate = self.after or self.before
        return fate.id if fate else ""


def fates(ledger: pl.DataFrame) -> list[Fate]:
    """The fate of every record, by id."""
    action, text = pl.col("action"), pl.col("hash_after")
    is_end, is_decision = action.is_in(TERMINAL), (pl.col("rule") == CURATOR) & (pl.col("stage") == "normalize")
    frame = ledger.sort("id", "seq").group_by("id", maintain_order=True)
    columns = frame.agg(
        pl.col("stage").first().alias("origin"),
        text.filter(action == "read").first().alias("read_hash"),
        text.drop_nulls().last().alias("text_hash"),
        pl.col("rule").filter(action == "changed").alias("changes"),
        pl.col("detail").filter(is_decision).alias("decisions"),
        *(pl.col(name).filter(is_end).last().fill_null("").alias(name) for name in ("stage", "action", "rule")),
        pl.col("split").filter(is_end).last(),
    )
    rows = columns.iter_rows(named=True)
    return [Fate(**{**row, "changes": tuple(row["changes"]), "decisions": tuple(row["decisions"])}) for row in rows]


def pair(before: Iterable[Fate], after: Iterable[Fate]) -> Iterator[tuple[Fate | None, Fate | None]]:
    """Match the records of two ledgers: by id, then by content, for a row that differs in a column that is not used."""
    ours, theirs = {fate.id: fate for fate in before}, {fate.id: fate for fate in after}
    yield from ((fate, theirs[key]) for key, fate in ours.items() if key in theirs)
    by_content = defaultdict(list)
    for key in sorted(theirs.keys() - ours.keys(), reverse=True):
        by_content[theirs[key].read_hash].append(theirs[key])
    for key in sorted(ours.keys() - theirs.keys()):
        same = by_content[ours[key].read_hash]
        yield ours[key], same.pop() if same else None
    yield from ((None, fate) for rest in by_content.values() for fate in rest)


def moves(pairs: Iterable[tuple[Fate | None, Fate | None]], changes: Sequence[Change] | None) -> list[Move]:
    """The records that are not as they were, with what can have done it; sorted by rule and id."""
    found = (move for before, after in pairs if (move := _move(before, after, changes or ())))
    return sorted(found, key=lambda move: (move.rule, move.id))


def _move(before: Fate | None, after: Fate | None, changes: Sequence[Change]) -> Move | None:
    was, now = bool(before and before.kept), bool(after and after.kept)
    if before is None or after is None:
        kind: Kind = "left" if was else "entered" if now else "fate"
        origin = (after or before or _NOWHERE).origin
        stages = STAGES[: STAGES.index(origin) + 1]
        causes = [change for change in changes if change.stage in stages and change.name not in _SAMPLING]
        return Move(kind, ABSENT, before, after, tuple(causes))
    if was != now:
        kind, rule = ("left", after.rule) if was else ("entered", before.rule)
    elif (before.stage, before.end) != (after.stage, after.end):
        kind, rule = "fate", SPLIT if was else f"{before.rule} → {after.rule}"
    elif was and before.text_hash != after.text_hash:
        kind, rule = "text", ", ".join(_text_rules(before, after)) or "text"
    else:
        return None
    return Move(kind, rule, before, after, tuple(_causes(kind, before, after, changes)))


_NOWHERE = Fate("", STAGES[0], None, None, (), (), "", "", "", None)


def _text_rules(before: Fate, after: Fate) -> list[str]:
    return sorted(set(before.changes) ^ set(after.changes))


def _causes(kind: Kind, before: Fate, after: Fate, changes: Sequence[Change]) -> list[Change]:
    """What can have changed a record's fate: at the stage where the two ways part, and before it where that matters."""
    decisions = [change for change in changes if change.name == DECISIONS]
    if before.decisions != after.decisions and decisions:
        return decisions
    if kind == "text":
        stage, rules = "normalize", _text_rules(before, after) or [""]
    else:
        ends = [(STAGES.index(fate.stage), fate.rule) for fate in (before, after) if fate.stage in STAGES]
        first = min((number for number, _ in ends), default=0)
        stage, rules = STAGES[first], [SPLIT if kind == "fate" and rule == "kept" else rule for number, rule in ends if number == first]
        rules = [rule for rule in rules if rule != "kept"]
    arrived_as_before = before.read_hash == after.read_hash if stage in STAGES[:2] else before.text_hash == after.text_hash
    earlier = STAGES[: STAGES.index(stage)] if not arrived_as_before or any(not _is_alone(rule) for rule in rules) else ()
    return [
        change for change in changes if change.stage in earlier or (change.stage == stage and any(_can(change, rule) for rule in rules))
    ]


def _is_alone(rule: str) -> bool:
    return rule in ALONE or rule in _TEXT_RULES or rule.startswith(("quality_", "pii_"))


def _can(change: Change, rule: str) -> bool:
    """Whether a change of a rule's own stage can change its verdict."""
    if change.kind == "code":
        return True
    if rule.startswith("quality_"):
        names: tuple[str, ...] = (f"normalize.quality.{rule.removeprefix('quality_')}.",)
    elif rule.startswith("pii_"):
        names = ("normalize.pii.",)
    else:
        names = () if rule in _TEXT_RULES else DEPENDS.get(rule, ("",))
    return change.name.startswith(names)


def counts(pairs: Iterable[tuple[Fate | None, Fate | None]]) -> dict[str, Counter[str]]:
    """Of each rule that keeps records out, how many entered, left and are unchanged."""
    table: dict[str, Counter[str]] = defaultdict(Counter)
    for before, after in pairs:
        old, new = (ABSENT if fate is None else fate.rule for fate in (before, after))
        was, now = (bool(fate and fate.kept) for fate in (before, after))
        if was and now:
            table["kept"]["unchanged"] += 1
        elif was:
            table[new]["left"] += 1
        elif now:
            table[old]["entered"] += 1
        elif old == new:
            table[old]["unchanged"] += 1
        else:
            table[new]["from_other"] += 1
    return dict(sorted(table.items()))


def because(causes: Sequence[Change], recorded: bool) -> Sentence:
    """Say what can have done it."""
    if not recorded:
        return Sentence("; what it was made with is not recorded", "；生成条件没有记录")
    if not causes:
        return Sentence("; no recorded change explains it", "；没有记录到可以解释的变化")
    said = [_describe(change) for change in causes]
    if len(said) == 1:
        return Sentence(f" because {said[0].en}", f"，因为 {said[0].zh}")
    english, chinese = "; ".join(each.en for each in said), "；".join(each.zh for each in said)
    return Sentence(f" because of one or more of: {english}", f"，原因为以下之一或几项：{chinese}")


def _describe(change: Change) -> Sentence:
    if change.kind == "code":
        return Sentence(f"stage {change.stage} changed its code ({change.name})", f"{change.stage} 阶段的代码有变（{change.name}）")
    if change.kind == "input" and not change.name.startswith("hub."):
        return Sentence(f"{change.name} changed", f"{change.name} 有变")
    before, after = ("—" if value is None else value if str(value) else '""' for value in (change.before, change.after))
    return Sentence(f"{change.name} went {before} → {after}", f"{change.name} 由 {before} 变为 {after}")
