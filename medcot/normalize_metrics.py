"""The counts of normalize, taken while the records pass by; nothing but counts and hashes is held."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

from medcot import pii, quality, text
from medcot.checks import CODES, UNREADABLE_CODES
from medcot.decisions import RULE, Decision
from medcot.normalization import DECIDABLE, Outcome

TEXT_RULES = tuple(rule.name for rule in text.RULES)
REMOVING = (RULE, *quality.RULES, *pii.RULES)
CHANGING = (RULE, *TEXT_RULES, *pii.RULES)
FLAGGING = (RULE, *DECIDABLE, "lost_superscript", *quality.RULES, *pii.RULES, pii.REVIEW)


@dataclass(slots=True)
class Tally:
    """Events by action and rule, records by fate, and the hashes of the decisions that met a row."""

    events: Counter[tuple[str, str]] = field(default_factory=Counter)
    num_input: int = 0
    num_kept: int = 0
    num_changed: int = 0
    num_personal: int = 0
    decided: set[str] = field(default_factory=set)

    def add(self, outcome: Outcome, decision: Decision | None = None) -> None:
        """Count one record, and its decision as one that met a row."""
        self.num_input += 1
        if decision is not None:
            self.decided.add(decision.content_hash)
        self.num_kept += outcome.record is not None
        self.num_changed += outcome.changed
        self.num_personal += any(event.rule in pii.RULES for event in outcome.events)
        self.events.update((event.action, event.rule) for event in outcome.events)

    def metrics(self, decisions: Collection[str], pii_mode: str) -> dict[str, Any]:
        """All counts, and rates as shares of the input; num_input == num_kept + every num_refused_* + every num_removed_*."""
        counts, total = self.events, max(self.num_input, 1)
        num_refused, num_removed = (sum(n for (action, _), n in counts.items() if action == end) for end in ("refused", "removed"))
        return {
            "num_input": self.num_input,
            "num_kept": self.num_kept,
            **{f"num_refused_{code}": counts["refused", code] for code in CODES},
            **{f"num_removed_{rule}": counts["removed", rule] for rule in REMOVING},
            "num_changed": self.num_changed,
            **{f"num_changed_{rule}": counts["changed", rule] for rule in CHANGING},
            **{f"num_flagged_{rule}": counts["flagged", rule] for rule in FLAGGING},
            "num_decisions": len(decisions),
            "num_decisions_unknown": len(set(decisions) - self.decided),
            "num_pii": self.num_personal,
            "pii_mode": pii_mode,
            "kept_rate": self.num_kept / total,
            "refused_rate": num_refused / total,
            "removed_rate": num_removed / total,
            "unreadable_rate": sum(counts["refused", code] for code in UNREADABLE_CODES) / total,
            "changed_rate": self.num_changed / total,
        }


def find_fault(metrics: dict[str, Any], max_bad_ratio: float) -> str | None:
    """Say why the data as a whole is refused: too many unreadable rows, or no record left."""
    removed = [f"{rule} {n}" for rule in REMOVING if (n := metrics[f"num_removed_{rule}"])]
    codes = [f"{code} {n}" for code in CODES if (n := metrics[f"num_refused_{code}"])] + removed
    ended = f"{metrics['num_input'] - metrics['num_kept']} of {metrics['num_input']} records"
    refused = f"{ended} refused{' or removed' if removed else ''} ({', '.join(codes)})"
    if metrics["unreadable_rate"] > max_bad_ratio:
        return f"{refused}, unreadable rows are {metrics['unreadable_rate']:.2%}, above normalize.max_bad_ratio {max_bad_ratio:.2%}"
    return None if metrics["num_kept"] else f"{refused}, no record is left"
