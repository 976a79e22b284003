"""How rows are grouped into passes, and how large passes may be, on memory that the test makes up."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

import pytest

from medcot.errors import DataError
from medcot.passes import (
    KEEP_ALL,
    MAX_TOKENS,
    MIN_TOKENS,
    Budget,
    Cost,
    Search,
    Workload,
    choose_budget,
    fix_budget,
    plan_passes,
    tokens_by_hand,
)


def realistic(count: int, seed: int = 0) -> list[int]:
    """Row lengths as of the data: log-normal, mean about 700, at most 2,048."""
    draw = random.Random(seed)
    return [min(2048, max(8, int(draw.lognormvariate(6.5, 0.35)))) for _ in range(count)]


def size(lengths: Sequence[int], positions: Sequence[int], padded: bool) -> int:
    chosen = [lengths[i] for i in positions]
    return len(chosen) * max(chosen) if padded else sum(chosen)


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("budget", [1, 500, 2048, 5120, 16384, 10**6])
def test_every_row_is_in_one_pass_within_the_budget_or_alone(budget: int, padded: bool) -> None:
    for seed in range(5):
        lengths = realistic(1 + 12 * seed, seed)
        passes = plan_passes(lengths, budget, padded=padded)
        assert sorted(i for one in passes for i in one) == list(range(len(lengths)))
        assert all(len(one) == 1 or size(lengths, one, padded) <= budget for one in passes)
        assert all(one == sorted(one) for one in passes)
        assert passes == sorted(passes)
        assert passes == plan_passes(list(lengths), budget, padded=padded)


def test_rows_that_fit_together_are_one_pass_in_their_own_order() -> None:
    assert plan_passes([30, 10, 20], 60) == [[0, 1, 2]]
    assert plan_passes([30, 10, 20], 90, padded=True) == [[0, 1, 2]]
    assert plan_passes([30, 10, 20], 89, padded=True) == [[0, 2], [1]]
    assert plan_passes([], 60) == []


def test_a_row_longer_than_the_budget_is_a_pass_of_its_own() -> None:
    assert plan_passes([100, 7, 300, 8], 50) == [[0], [1, 3], [2]]
    assert plan_passes([100, 7, 300, 8], 50, padded=True) == [[0], [1, 3], [2]]


@pytest.mark.parametrize("budget", [2048, 4096, 5120])
def test_passes_are_few_and_even(budget: int) -> None:
    for seed in range(20):
        lengths = realistic(48, seed)
        sizes = [size(lengths, one, False) for one in plan_passes(lengths, budget)]
        assert len(sizes) <= 1.12 * sum(lengths) / budget + 1
        assert max(sizes) - min(sizes) <= max(lengths)
    assert plan_passes([100] * 48, 1000) == [list(range(n, 48, 5)) for n in range(5)]


def test_a_padded_pass_holds_rows_of_like_length() -> None:
    lengths = realistic(48)
    passes = plan_passes(lengths, 5120, padded=True)
    assert sum(size(lengths, one, True) for one in passes) < 1.2 * sum(lengths), "less than a sixth is padding"


# ---- memory


Card = Callable[[Sequence[int], int], Cost | None]


def card(
    lengths: Sequence[int],
    base: float,
    kept: float,
    recomputed: float,
    *,
    padded: bool = False,
    in_part: bool = False,
    jump: float = 0.0,
    start: float = 0.0,
) -> tuple[Card, list[tuple[int, int]]]:
    """Memory of 24,000, of which a pass takes base + slope × tokens, `jump` more above 3,000 tokens; and the attempts made on it.

    A pass takes `start` seconds and a tenth of a millisecond a token, half as much again for what it recomputes.
    """
    tried: list[tuple[int, int]] = []

    def attempt(positions: Sequence[int], keep_tokens: int) -> Cost | None:
        tokens = size(lengths, positions, padded)
        tried.append((tokens, keep_tokens))
        whole = tokens if tokens <= keep_tokens else keep_tokens if in_part else 0
        peak = int(base + kept * whole + recomputed * (tokens - whole) + (jump if tokens > 3000 else 0))
        seconds = start + 1e-4 * whole + 1.5e-4 * (tokens - whole)
        return Cost(peak, seconds) if peak <= 24_000 else None

    return attempt, tried


def test_two_attempts_tell_the_largest_budget_and_one_more_proves_it() -> None:
    lengths = realistic(512)
    attempt, tried = card(lengths, base=6000, kept=3.0, recomputed=0.5, in_part=True)
    budget = choose_budget(Search(Workload(lengths, 48), attempt, limit=22_000, in_part=True))
    assert budget is not None
    assert budget.keep_tokens == budget.tokens
    assert 5200 < budget.tokens <= (22_000 - 6000) / 3
    assert len(tried) == 4, "one to warm up, two to measure, one to prove"


def test_larger_passes_that_recompute_are_taken_where_they_are_faster() -> None:
    lengths = realistic(512)
    for start, faster in ((0.01, "kept"), (1.0, "recomputed")):
        attempt, tried = card(lengths, base=6000, kept=3.0, recomputed=0.5, start=start)
        budget = choose_budget(Search(Workload(lengths, 48), attempt, limit=22_000))
        assert budget is not None
        assert (budget.keep_tokens == 0) == (faster == "recomputed")
        assert len(tried) == 8
        assert budget.tokens > (15_000 if faster == "recomputed" else 5200)


def test_no_budget_is_larger_than_what_a_step_needs_or_what_is_of_use() -> None:
    lengths = realistic(512)
    attempt, tried = card(lengths, base=0, kept=0.1, recomputed=0.1)
    few = choose_budget(Search(Workload(lengths, 4), attempt, limit=22_000))
    assert few == Budget(sum(sorted(lengths)[-4:]), sum(sorted(lengths)[-4:]))
    many = choose_budget(Search(Workload(lengths, 512), attempt, limit=22_000))
    assert many is not None
    assert MAX_TOKENS - 8 <= many.tokens <= MAX_TOKENS
    tried.clear()
    short = [20, 30, 40]
    attempt, tried = card(short, base=0, kept=0.1, recomputed=0.1)
    assert choose_budget(Search(Workload(short, 3), attempt, limit=22_000)) == Budget(90, 90)
    assert tried == [(90, KEEP_ALL)]


def test_where_too_few_tokens_fit_activations_are_recomputed_and_measured_again() -> None:
    lengths = realistic(512)
    attempt, _ = card(lengths, base=6000, kept=12.0, recomputed=1.5, start=0.5)
    budget = choose_budget(Search(Workload(lengths, 48), attempt, limit=22_000))
    assert budget is not None
    assert budget.keep_tokens == 0
    assert (22_000 - 6000) / 12 < MIN_TOKENS < budget.tokens <= (22_000 - 6000) / 1.5
    always = choose_budget(Search(Workload(lengths, 48), card(lengths, 0, 0.1, 0.1)[0], limit=22_000, always_recompute=True))
    assert always is not None
    assert always.keep_tokens == 0


def test_activations_that_must_be_kept_are_kept_in_passes_as_small_as_it_takes() -> None:
    lengths = realistic(512)
    attempt, _ = card(lengths, base=6000, kept=7.5, recomputed=1.5, start=1.0)
    budget = choose_budget(Search(Workload(lengths, 48), attempt, limit=22_000, never_recompute=True))
    assert budget is not None
    assert budget.keep_tokens >= budget.tokens > 1000


def test_a_path_that_recomputes_in_part_keeps_what_fits() -> None:
    lengths = realistic(512)
    attempt, _ = card(lengths, base=6000, kept=12.0, recomputed=1.0, in_part=True)
    budget = choose_budget(Search(Workload(lengths, 48), attempt, limit=22_000, in_part=True))
    assert budget is not None
    assert budget.tokens == MIN_TOKENS
    assert 1000 < budget.keep_tokens <= (22_000 - 6000) / 12


def test_a_row_longer_than_the_budget_is_tried_by_itself() -> None:
    lengths = [*realistic(200), 7000]
    attempt, tried = card(lengths, base=6000, kept=3.0, recomputed=0.5)
    budget = choose_budget(Search(Workload(lengths, 48), attempt, limit=22_000))
    assert budget is not None
    assert budget.keep_tokens == budget.tokens < 7000, "the long row recomputes"
    assert (7000, budget.tokens) in tried
    attempt, _ = card(lengths, base=6000, kept=12.0, recomputed=5.0)
    assert choose_budget(Search(Workload(lengths, 48), attempt, limit=22_000)) is None, "it fits nowhere"


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("seed", range(6))
def test_whatever_memory_is_like_every_pass_of_every_step_fits(seed: int, padded: bool) -> None:
    draw = random.Random(seed)
    lengths = realistic(300, seed)
    rows = draw.choice([1, 3, 16, 48])
    attempt, _ = card(lengths, 4000, draw.uniform(1, 12), 0.8, padded=padded, jump=draw.choice([0, 4000]))
    budget = choose_budget(Search(Workload(lengths, rows, padded), attempt, limit=20_000))
    assert budget is not None
    for _ in range(30):
        step = draw.sample(range(len(lengths)), rows)
        for one in plan_passes([lengths[i] for i in step], budget.tokens, padded=padded):
            cost = attempt([step[i] for i in one], budget.keep_tokens)
            assert cost is not None
            assert cost.peak <= 20_000 * 1.005, "a pass may hold a few tokens more than the largest that was tried"


def test_a_budget_without_a_measure_steps_down_until_it_fits() -> None:
    lengths = realistic(100)
    attempt, tried = card(lengths, base=0, kept=6.0, recomputed=6.0)
    budget = choose_budget(Search(Workload(lengths, 48), attempt, limit=float("inf")), start=8192)
    assert budget is not None
    assert 24_000 / 6 * 0.7 < budget.tokens <= 24_000 / 6
    assert tried[0][0] > 24_000 / 6 >= tried[-1][0]
    small = card(lengths, base=0, kept=0.1, recomputed=0.1)[0]
    assert choose_budget(Search(Workload(lengths, 48), small, limit=float("inf")), start=8192) == Budget(8192, 8192)


def test_a_budget_by_hand_is_kept_recomputed_or_refused() -> None:
    lengths = realistic(100)

    def fixed(tokens: int) -> Budget | None:
        return fix_budget(Search(Workload(lengths, 48), card(lengths, 6000, 3.0, 0.5)[0], limit=22_000), tokens)

    assert fixed(4096) == Budget(4096, 4096)
    assert fixed(8192) == Budget(8192, 0)
    assert fixed(40_000) is None
    assert fixed(100) == Budget(100, max(lengths)), "longer rows are passes of their own, and fit"


def test_what_a_budget_is_said_to_be() -> None:
    assert Budget(5120, 5120).describe() == "passes of up to 5,120 tokens, activations kept"
    assert Budget(5120, 0).describe() == "passes of up to 5,120 tokens, activations recomputed"
    assert Budget(2048, 900).describe() == "passes of up to 2,048 tokens, activations recomputed in part"


@pytest.mark.parametrize("wrong", ["0", "-3", "4k", "1.5", "１２", " ", "9" * 5000])
def test_tokens_by_hand_are_a_positive_number(monkeypatch: pytest.MonkeyPatch, wrong: str) -> None:
    monkeypatch.setenv("MEDCOT_TOKENS_PER_PASS", wrong)
    with pytest.raises(
        DataError, match=r"^environment: MEDCOT_TOKENS_PER_PASS: not a number of tokens, got .*; set it to one such as 4096"
    ):
        tokens_by_hand()
    monkeypatch.setenv("MEDCOT_TOKENS_PER_PASS", "4096")
    assert tokens_by_hand() == 4096
    for unset in (lambda: monkeypatch.setenv("MEDCOT_TOKENS_PER_PASS", ""), lambda: monkeypatch.delenv("MEDCOT_TOKENS_PER_PASS")):
        clear: Callable[[], None] = unset
        clear()
        assert tokens_by_hand() is None
