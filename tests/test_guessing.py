"""What guessing scores, and that the verdict says it, and nothing else, where neither arm does better."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations
from typing import Any

import numpy as np
import pytest
from report_factory import make_inputs
from verdict_factory import KEPT, Counts, arms, judged, manifest

from medcot.endpoints import pair_items
from medcot.guessing import Guessing, chance_level, score_interval
from medcot.report import render
from medcot.report_data import gather
from medcot.statistics import wilson
from medcot.tasks import Prompt
from medcot.verdict import Judgement, judge
from medcot.verdict_page import guessing_note, page
from medcot.verdict_params import VerdictParams

PLAIN = VerdictParams()
AT_CHANCE: Counts = (740, 10, 10, 2240)
"""3,000 questions of which both arms get 25 of 100 right."""
SAID = {"en": "Neither is shown to do better than guessing", "zh": "没有证据表明两者比随机猜测更好"}


def prompt(num_choices: int, reference: str = "A", contaminated: bool | None = False) -> Prompt:
    choices = tuple(f"选项 choice {i}" for i in range(num_choices))
    return Prompt("choice", "考试", "题1", "题1", contaminated, "问？ Which?", choices, reference)


def judged_with(chance: float | None, **endpoints: Counts) -> Judgement:
    asked = manifest({**endpoints, **KEPT}, **({} if chance is None else {"chance.choice": chance}))
    return judge(asked, asked, pair_items(*arms({**endpoints, **KEPT})), PLAIN)


# --- what guessing scores ---


def test_guessing_scores_one_of_the_choices_on_average_over_the_clean_items() -> None:
    assert chance_level([prompt(4)]) == 0.25
    assert chance_level([prompt(4), prompt(5, contaminated=None)]) == pytest.approx((1 / 4 + 1 / 5) / 2)
    assert chance_level([prompt(4), prompt(2, contaminated=True)]) == 0.25, "the verdict reads the clean ones"


def test_where_several_letters_are_right_any_two_or_more_may_be_guessed() -> None:
    for num in (3, 4, 5):
        sets = [chosen for size in range(2, num + 1) for chosen in combinations(range(num), size)]
        assert chance_level([prompt(num, "AC")]) == 1 / len(sets)


def test_what_is_not_chosen_among_choices_cannot_be_guessed() -> None:
    assert chance_level([]) is None
    assert chance_level([prompt(0, "肺炎 pneumonia")]) is None
    assert chance_level([prompt(4, contaminated=True)]) is None


# --- the interval of one arm ---


def test_the_interval_of_items_that_share_no_case_is_wilsons() -> None:
    scores = np.repeat([1.0, 0.0], [30, 70])
    assert score_interval(scores, 0.25, [f"病例{i}" for i in range(100)], 0.95, 2000, 42) == wilson(30, 100, 0.95)


def test_items_of_one_case_and_fractions_are_resampled_and_widen_it() -> None:
    scores = np.repeat([1.0, 0.0], [30, 70])
    alone, wide = wilson(30, 100, 0.95), score_interval(scores, 0.25, [f"病例{i // 4}" for i in range(100)], 0.95, 2000, 42)
    assert wide[0] < alone[0] < 0.3 < alone[1] < wide[1]
    halves = score_interval(np.full(100, 0.5) + np.tile([0.1, -0.1], 50), 0.25, [f"c{i}" for i in range(100)], 0.95, 2000, 42)
    assert 0.45 < halves[0] < 0.5 < halves[1] < 0.55
    assert score_interval([1.0, 0.5], 0.25, ["甲", "甲"], 0.95, 2000, 42) == (0.0, 1.0), "one case says nothing"


def test_neither_does_better_where_both_intervals_hold_the_chance_or_lie_below_it() -> None:
    holds, below, touches, above = (0.2, 0.3), (0.1, 0.2), (0.25, 0.4), (0.26, 0.4)
    for one in (holds, below, touches):
        assert all(Guessing(0.25, one, other).neither for other in (holds, below, touches))
        assert not Guessing(0.25, one, above).neither
        assert not Guessing(0.25, above, one).neither


# --- the verdict ---


def test_arms_at_chance_are_equivalent_as_before_and_it_is_known_that_they_guess() -> None:
    found, silent = judged_with(0.25, choice=AT_CHANCE), judged_with(None, choice=AT_CHANCE)
    assert found.verdict == silent.verdict == "EQUIVALENT"
    assert found.guessing == Guessing(0.25, wilson(750, 3000), wilson(750, 3000))
    assert found.guessing.neither
    assert silent == judged({"choice": AT_CHANCE, **KEPT})
    assert replace(found, guessing=None) == silent, "nothing else changes"


@pytest.mark.parametrize(
    ("counts", "verdict", "neither"),
    [
        ((3000, 20, 20, 960), "EQUIVALENT", False),
        ((200, 10, 10, 2780), "EQUIVALENT", True),  # below chance, as unreadable replies are
        ((100, 20, 300, 1080), "BETTER", True),
        ((200, 20, 300, 980), "BETTER", False),
        ((300, 60, 70, 870), "INCONCLUSIVE", False),
        ((200, 60, 70, 870), "INCONCLUSIVE", True),
    ],
)
def test_one_arm_above_chance_is_enough(counts: Counts, verdict: str, neither: bool) -> None:
    found = judged_with(0.25, choice=counts)
    assert (found.verdict, found.guessing is not None and found.guessing.neither) == (verdict, neither)


def test_what_is_not_judged_is_not_held_against_guessing() -> None:
    assert judged_with(0.25, choice=(50, 3, 7, 40)).verdict == "INVALID"
    assert judged_with(0.25, choice=(50, 3, 7, 40)).guessing is None
    assert judged_with(0.25).guessing is None


# --- what is said ---


def record_of(counts: Counts, **changes: Any) -> tuple[dict[str, Any], str]:
    """The record of a verdict at 25 by chance, and its report."""
    inputs = make_inputs({"choice": counts, **KEPT}, **{"chance.choice": 0.25, **changes})
    return dict(inputs.record), render(gather(inputs, 1, 1, 42))


def test_page_and_report_say_so_in_both_languages_with_the_figures() -> None:
    record, report = record_of(AT_CHANCE)
    assert (record["verdict"], record["guessing"]["neither"]) == ("EQUIVALENT", True)
    english, chinese = guessing_note(record, "en"), guessing_note(record, "zh")
    assert english is not None
    assert chinese is not None
    assert "which scores 25.0 points out of 100: the base lies within 23.5 to 26.6, the fine-tune within 23.5 to 26.6 (95 %" in english
    assert "猜测可得每 100 分 25.0 分，基座在 23.5 至 26.6 之间，微调模型在 23.5 至 26.6 之间（95 % 区间）" in chinese
    assert f"**Note.** {english}\n" in list(page(record, "en"))
    assert f"**注意。** {chinese}\n" in list(page(record, "zh"))
    assert report.count(english) == report.count(chinese) == 1


def test_nothing_is_said_where_an_arm_does_better_or_nobody_knows_what_guessing_scores() -> None:
    for counts, changes in (((3000, 20, 20, 960), {}), (AT_CHANCE, {"chance.choice": None})):
        record, report = record_of(counts, **changes)
        assert record["verdict"] == "EQUIVALENT"
        for language, words in SAID.items():
            assert guessing_note(record, language) is None  # type: ignore[arg-type]
            assert words not in report
            assert words not in "".join(page(record, language))  # type: ignore[arg-type]
