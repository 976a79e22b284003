"""The verdict: one of eight words, reached by a fixed table from intervals, never from point estimates.

INVALID comes before any other: what was not measured soundly is not judged. Then the primary endpoint's interval decides, together with
whether it was shown that nothing was lost: in general ability (pooled within forgetting_margin, each within forgetting_floor), in the
red-flag rules, and in free replies that do not loop. A gate that is not shown never makes BETTER; a harm that is shown makes TRADE-OFF.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import polars as pl

from medcot.decision_table import Loss, Verdict, decide
from medcot.endpoints import POOLED_FORGETTING, Measured, beside_chance, measure
from medcot.guessing import Guessing
from medcot.paired import Comparison, non_inferiority
from medcot.power import items_needed, items_to_show
from medcot.tasks import CHANCE, ENDPOINTS, FORGETTING
from medcot.validity import Reason, differences, faults, too_few
from medcot.verdict_params import MAX_LOOPING, VerdictParams

State = Literal["shown", "harm", "unproven", "not_measured"]
POOLED = "pooled"


@dataclass(frozen=True, slots=True)
class Gate:
    """Whether something was lost.

    name    forgetting | safety | looping
    state   shown (nothing was lost beyond the margins) | harm (a loss was shown) | unproven | not_measured
    harmed  the endpoints that lost
    needed  endpoint → the items it would take to show that nothing was lost, if nothing was; of those that do not show it yet
    faults  why one of its endpoints may not be read
    """

    name: str
    state: State
    harmed: tuple[str, ...] = ()
    needed: dict[str, int] = field(default_factory=dict)
    faults: tuple[Reason, ...] = ()


@dataclass(frozen=True, slots=True)
class Judgement:
    """A verdict and what it was reached from.

    reasons       why it is INVALID, NO-ENDPOINT, or INCONCLUSIVE by its tier; else empty
    primary       the endpoint that decides; None where there is none, or the arms may not be subtracted
    measured      every comparison, the primary one first
    n_to_resolve  clean items it would take to see a difference as large as the margin; None where nothing was measured
    guessing      each arm beside guessing, on the primary endpoint; None where nothing is judged or nothing is to be guessed
    """

    verdict: Verdict
    reasons: tuple[Reason, ...] = ()
    primary: Measured | None = None
    measured: tuple[Measured, ...] = ()
    gates: tuple[Gate, ...] = ()
    n_to_resolve: int | None = None
    guessing: Guessing | None = None


def judge(
    base: Mapping[str, Any], tuned: Mapping[str, Any], items: pl.DataFrame, params: VerdictParams, looping: Comparison | None = None
) -> Judgement:
    """Reach the verdict.

    base, tuned  the manifests of both arms
    items        their scores, paired by endpoints.pair_items
    looping      held-out replies that loop, tuned − base; None where no reply was generated
    """
    if unlike := differences(base, tuned):
        return Judgement("INVALID", tuple(unlike))
    num_items = {key.partition(".")[2]: int(value) for key, value in tuned.items() if key.startswith("num_items.")}
    measured = tuple(measure(items, num_items, params))
    lost = _lost(items, num_items, measured, params)
    gates = (_without(forgetting_gate(measured, params), FORGETTING, lost), safety_gate(measured, params), looping_gate(looping))
    primary = next((each for each in measured if each.role == "primary"), None)
    if primary is None:
        return _nothing(items, num_items, params, measured, gates)
    reasons = (*_unchecked(tuned, primary), *faults(primary, params), *too_few(primary, params))
    one = primary.comparison
    resolve = items_needed(params.margin, one.discordance, params.confidence, design_effect=one.design_effect)
    found = (primary, measured, gates, resolve)
    if reasons:
        return Judgement("INVALID", reasons, *found)
    chance = tuned.get(f"{CHANCE}{primary.endpoint}")
    guessing = None if chance is None else beside_chance(items, primary.endpoint, chance, params)
    if params.tier == "smoke":
        return Judgement("INCONCLUSIVE", (Reason("tier_smoke", primary.endpoint, {"n": one.n}),), *found, guessing)
    return Judgement(decide(one.low, one.high, combined(gates), params.margin), (), *found, guessing)


def combined(gates: Sequence[Gate]) -> Loss:
    """One harm is a harm; shown is only what every gate shows. That replies loop can veto, and needs no proof of the contrary."""
    states = {gate.name: gate.state for gate in gates}
    if "harm" in states.values():
        return "harm"
    return "shown" if all(state == "shown" for name, state in states.items() if name != "looping") else "unproven"


def forgetting_gate(measured: Sequence[Measured], params: VerdictParams) -> Gate:
    """Whether general ability was kept: all of it together within the margin, and each endpoint within the floor."""
    rows = {each.endpoint: each for each in measured if each.role == "forgetting"}
    pooled = rows.pop(POOLED_FORGETTING, None)
    return _gate("forgetting", pooled, rows, params.forgetting_margin, params.forgetting_floor, params)


def safety_gate(measured: Sequence[Measured], params: VerdictParams) -> Gate:
    """Whether the red-flag rules find no more mistakes than before."""
    rows = {each.endpoint: each for each in measured if each.role == "safety"}
    gate = _gate("safety", next(iter(rows.values()), None), rows, params.safety_margin, params.safety_margin, params)
    return replace(gate, needed={name: n for name, n in gate.needed.items() if name != POOLED})  # there is one endpoint


def _gate(name: str, pooled: Measured | None, parts: Mapping[str, Measured], margin: float, floor: float, params: VerdictParams) -> Gate:
    if pooled is None:
        return Gate(name, "not_measured")
    wrong = tuple(fault for part in parts.values() for fault in faults(part, params))
    lacking = {fault.subject for fault in wrong if fault.code == "too_many_missing"}  # what is not there was not lost by the model
    there = {part: one.comparison for part, one in parts.items() if part not in lacking}
    found = non_inferiority(pooled.comparison, there, margin, floor)
    harmed = tuple(part for part in found.harmed if part in there or not lacking)
    state: State = "harm" if harmed else "unproven" if wrong else found.state
    needed = {part: _to_show(one, floor, params) for part, one in there.items() if one.lower <= -floor}
    if pooled.comparison.lower <= -margin and not lacking:
        needed[POOLED] = _to_show(pooled.comparison, margin, params)
    return Gate(name, state, harmed, {} if state == "shown" else needed, wrong)


def _to_show(one: Comparison, margin: float, params: VerdictParams) -> int:
    """Items to show it with. One more item is taken to differ: arms that agree on ten items do not agree on all."""
    discordance = (one.discordance * one.n + 1) / (one.n + 1)
    return items_to_show(margin, discordance, params.confidence, design_effect=one.design_effect)


def looping_gate(looping: Comparison | None) -> Gate:
    """Whether free replies came to loop: more than the base's by its interval, and more than MAX_LOOPING of them."""
    if looping is None:
        return Gate("looping", "not_measured")
    if looping.low > 0.0 and looping.tuned > MAX_LOOPING:
        return Gate("looping", "harm", ("looping",))
    return Gate("looping", "shown" if looping.high < MAX_LOOPING else "unproven")


def _unchecked(manifest: Mapping[str, Any], primary: Measured) -> list[Reason]:
    """Nobody compared the benchmarks with the training rows at all; items of which that is true are found by validity.faults."""
    if manifest.get("contamination") == "checked" or primary.unchecked:
        return []
    return [Reason("contamination_not_checked", primary.endpoint, {"num": primary.comparison.n, "n": primary.comparison.n})]


def _lost(items: pl.DataFrame, num_items: Mapping[str, int], measured: Sequence[Measured], params: VerdictParams) -> list[Reason]:
    """The endpoints that were asked and of which no clean item has a score: nothing is measured of them."""
    known, scored = {each.endpoint for each in measured}, set(items["endpoint"].unique())
    found = []
    for endpoint in sorted(name for name, num in num_items.items() if num and name in ENDPOINTS and name not in known):
        figures = {"base": 1.0, "tuned": 1.0, "limit": params.max_missing, "n": num_items[endpoint]}
        found.append(Reason("all_contaminated", endpoint) if endpoint in scored else Reason("too_many_missing", endpoint, figures))
    return found


def _without(gate: Gate, endpoints: Sequence[str], lost: Sequence[Reason]) -> Gate:
    """What was asked and cannot be read leaves a gate that the other endpoints would pass unproven."""
    wrong = tuple(reason for reason in lost if reason.subject in endpoints)
    return replace(gate, state="unproven" if gate.state == "shown" and wrong else gate.state, faults=(*gate.faults, *wrong))


def _nothing(
    items: pl.DataFrame, num_items: Mapping[str, int], params: VerdictParams, measured: tuple[Measured, ...], gates: tuple[Gate, ...]
) -> Judgement:
    """No clean item of the primary endpoint has a score: there are none, all are contaminated, or all scores are missing."""
    if items.filter(endpoint=params.primary).height:
        return Judgement("NO-ENDPOINT", (Reason("all_contaminated", params.primary),), None, measured, gates)
    if num := num_items.get(params.primary):
        lost = Reason("too_many_missing", params.primary, {"base": 1.0, "tuned": 1.0, "limit": params.max_missing, "n": num})
        return Judgement("INVALID", (lost,), None, measured, gates)
    return Judgement("NO-ENDPOINT", (Reason("no_items", params.primary),), None, measured, gates)
