"""What both arms are asked, and what one model makes of it: every endpoint, every reply, nothing left out."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import polars as pl
import pytest
from evaluation_factory import MAX_ITEMS, ROWS, eval_set, params, write_workspace
from model_factory import tiny_model

from medcot.arm import arm_metrics, read_arm, write_arm
from medcot.comparison import check_alike
from medcot.errors import DataError
from medcot.evidence import choose, describe_generation, gather, run_arm
from medcot.tasks import CHANCE, ENDPOINTS, GENERATED, HELDOUT, Prompt

SMALL = {"max_items": MAX_ITEMS, "generation": {"max_new_tokens": 5, "batch_size": 4}}


@pytest.fixture
def data(in_tmp):
    write_workspace(in_tmp)
    return eval_set(in_tmp)


@pytest.fixture
def evidence(data):
    return gather(data, params(**SMALL))


@pytest.fixture
def arm(data, evidence):
    model = tiny_model(len(data.tok))
    return run_arm(model, data, evidence, params(**SMALL), evidence.manifest())


def test_every_endpoint_is_asked_and_capped(evidence):
    counts = {name: len(prompts) for name, prompts in evidence.prompts.items()}
    assert set(counts) == {HELDOUT, *ENDPOINTS}
    assert all(1 <= counts[name] <= MAX_ITEMS[name] for name in counts)
    assert len(evidence.texts) == MAX_ITEMS["general_text"]


def test_marks_travel_with_the_items_and_say_whether_all_were_checked(evidence, data):
    assert evidence.checked
    assert {prompt.item: prompt.contaminated for prompt in evidence.prompts["choice"]}.get("c0", True) is True
    assert evidence.manifest()["contamination"] == "checked"
    assert evidence.manifest()["num_excluded"] == evidence.excluded.height
    marks = Path("data/decontaminated/items.parquet")
    pl.read_parquet(marks)[1:].write_parquet(marks)
    assert not gather(data, params(**SMALL)).checked, "one item that nobody compared is one too many"
    marks.unlink()
    unchecked = gather(data, params(**SMALL))
    assert unchecked.manifest()["contamination"] == "not_checked"
    assert {prompt.contaminated for prompt in unchecked.prompts["choice"]} == {None}


def test_what_guessing_scores_is_told_of_every_endpoint_with_choices(evidence):
    told = {key: value for key, value in evidence.manifest().items() if key.startswith(CHANCE)}
    assert told["chance.choice"] == told["chance.choice_generated"] == 0.25, "all items of the exam have four choices"
    assert set(told) == {"chance.choice", "chance.choice_generated", "chance.general_choice"}


def test_our_own_suites_carry_the_marks_of_decontamination_too(data):
    marks = pl.read_parquet("data/decontaminated/items.parquet")
    first = gather(data, params(**SMALL)).prompts["instructions"][0]
    assert first.contaminated is None
    seen = pl.DataFrame({"benchmark": [first.benchmark], "item": [first.item], "contaminated": [True]})
    pl.concat([marks, seen]).write_parquet("data/decontaminated/items.parquet")
    assert gather(data, params(**SMALL)).prompts["instructions"][0].contaminated is True


def test_a_kind_of_which_none_is_wanted_is_not_even_read(data, in_tmp):
    (in_tmp / "data/suites").unlink()
    nothing = dict.fromkeys(MAX_ITEMS, 0)
    with pytest.raises(DataError, match=r"data/suites"):
        gather(data, params(**SMALL))
    (in_tmp / "data/suites").mkdir()
    assert not any(gather(data, params(max_items=nothing)).prompts.values())


def test_every_item_has_a_score_and_every_held_out_reply_its_health(arm, evidence):
    asked = {(name, prompt.item) for name in ENDPOINTS for prompt in evidence.prompts[name]}
    assert set(arm.scores.select("endpoint", "item").rows()) == asked
    assert arm.scores["score"].is_between(0, 1).all()
    assert set(arm.replies["endpoint"]) == {HELDOUT, *GENERATED}
    assert arm.health.height == len(evidence.prompts[HELDOUT])
    failed = arm.scores.filter((pl.col("status") != "ok") & (pl.col("score") != 0))
    assert failed.height == 0


def test_two_samples_are_two_replies_and_two_scores(data):
    twice = params(**{**SMALL, "generation": {"max_new_tokens": 5, "num_samples": 2}})
    evidence = gather(data, twice)
    arm = run_arm(tiny_model(len(data.tok)), data, evidence, twice, {})
    generated = arm.scores.filter(pl.col("endpoint").is_in(GENERATED))
    assert generated.height == 2 * sum(len(evidence.prompts[name]) for name in GENERATED)
    assert arm.scores.filter(~pl.col("endpoint").is_in(GENERATED))["sample"].to_list() == [0] * (
        len(evidence.prompts["choice"]) + len(evidence.prompts["general_choice"])
    )


def test_metrics_name_every_endpoint_and_set(arm):
    metrics = arm_metrics(arm)
    assert set(metrics["endpoints"]) == set(ENDPOINTS)
    assert metrics["general"]["text"]["nll"] > 0
    assert metrics["endpoints"]["choice"]["num_items"] == metrics["endpoints"]["choice"]["num_replies"]


def test_an_arm_with_replies_is_read_back_as_it_was_written(arm, tmp_path):
    write_arm(tmp_path, arm)
    again = read_arm(tmp_path, "run it")
    for table in ("frame", "replies", "scores", "health"):
        assert getattr(again, table).equals(getattr(arm, table))


def test_what_is_asked_is_part_of_what_makes_arms_alike(evidence, data):
    asked = {**evidence.manifest(), "generation": describe_generation(params(**SMALL), None)}
    first, *others = evidence.prompts["choice"]
    reworded = [dataclasses.replace(first, text=f"{first.text}？"), *others]
    changed = dataclasses.replace(evidence, prompts={**evidence.prompts, "choice": reworded})
    with pytest.raises(DataError, match="the base arm has another set of items of choice"):
        check_alike("here", asked, {**asked, **changed.manifest()})
    warmer = {**SMALL, "generation": {"max_new_tokens": 5, "temperature": 0.7}}
    with pytest.raises(DataError, match="the base arm has another way of generating replies"):
        check_alike("here", asked, {**asked, "generation": describe_generation(params(**warmer), None)})
    assert describe_generation(params(generation={"batch_size": 4}), None) == describe_generation(params(), None)
    marked = [dataclasses.replace(prompt, contaminated=True) for prompt in evidence.prompts["choice"]]
    other = dataclasses.replace(evidence, prompts={**evidence.prompts, "choice": marked}).manifest()
    assert other["prompts_hash.choice"] == asked["prompts_hash.choice"]
    assert other["contamination_hash"] != asked["contamination_hash"]


def test_a_choice_of_a_suite_follows_the_items_and_not_their_order():
    prompts = [Prompt("instructions", "suite", f"i{n:02}", f"i{n:02}", None, f"写第 {n} 句") for n in range(60)]
    assert choose(prompts[::-1], 1000) == prompts
    assert choose(prompts[::-1], 7) == choose(prompts, 7)
    assert {prompt.item for prompt in choose(prompts, 7)} < {prompt.item for prompt in choose(prompts, 8)}


def test_a_suite_is_asked_whole_on_either_split_and_benchmarks_by_half(data, in_tmp):
    everything = params(split="val", max_items=MAX_ITEMS | {"instructions": 1000, "choice": 1000})
    val = gather(data, everything).prompts
    test = gather(eval_set(in_tmp, "test"), everything.model_copy(update={"split": "test"})).prompts
    assert val["instructions"] == test["instructions"]
    assert not {prompt.item for prompt in val["choice"]} & {prompt.item for prompt in test["choice"]}


def test_heldout_questions_are_rows_of_the_split(evidence):
    assert {prompt.item for prompt in evidence.prompts[HELDOUT]} <= {row.id for row in ROWS}
