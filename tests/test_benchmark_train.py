"""The benchmark of training: who runs when, what a target takes, how device time is attributed, and that its jobs can be run."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.random_model import lengths
from benchmarks.train import contest, order, parse, plan, report
from benchmarks.train_children import Runner
from benchmarks.train_contenders import CONTENDERS, FASTEST, RECIPES, TARGETS, Target, make_job, memory_jobs
from benchmarks.train_profile import SHARES, kernel_category, product_category, share
from benchmarks.train_setup import READY, SETTINGS, TINY, Job, read_job, timed
from benchmarks.train_stand_in import FILES, stand_in_path
from benchmarks.train_table import PEAK, peak_flops, speed_table, speeds, verdict
from medcot.train_params import TrainParams


def line(contender: str, rate: float, setting: str = "7b", **fields: object) -> dict[str, object]:
    """A result of two steps at so many tokens per second."""
    measured = {"tokens": [rate, 3 * rate], "seconds": [1.0, 3.0], "allocated_gib": 20.0, "reserved_gib": 21.5, "filled": 0.5}
    own = {"setting": setting, "contender": contender, "cap_gib": 22.5, "batch": 4, "parameters": 7_070_000_000}
    return {**own, **measured, "versions": {"torch": "2.11.0"}, **fields}


def test_the_fastest_run_again_backwards_every_other_time():
    names = ["fused", "trl", "plain"]
    assert order(names, 1) == [(0, "fused"), (0, "trl"), (0, "plain")]
    assert order(names, 3)[3:] == [(1, "plain"), (1, "fused"), (2, "fused"), (2, "plain")]


def test_speed_is_the_median_of_runs_and_mfu_counts_four_flops_a_weight():
    found = speeds([line("fused", rate) for rate in (17_000, 19_000, 18_000)])[("7b", "fused")]
    assert found.median == 18_000
    assert found.runs == (17_000, 19_000, 18_000)
    assert found.mfu(790e12) == pytest.approx(4 * 7.07e9 * 18_000 / 790e12)
    table = speed_table({("7b", "fused"): found}, "7b", PEAK)
    assert "18,000 | 17,000 to 19,000 (3) | 18,000 | 20.0 | 21.5 | 0.50 | 0.64 |" in table
    assert "22.5 GiB" in table


def test_a_pause_in_one_step_does_not_count_as_speed_but_is_shown():
    paused = line("trl", 0, tokens=[100, 100, 100], seconds=[1.0, 8.0, 1.0])
    found = speeds([paused])
    assert found[("7b", "trl")].median == 100
    assert "| 100 |  | 30 |" in speed_table(found, "7b", PEAK)


@pytest.mark.parametrize(
    ("rate", "wanted"),
    [(15_000, ("3.000", "met")), (14_990, ("2.998", "not met")), (0, ("", "not measured"))],
    ids=["at", "under", "absent"],
)
def test_a_ratio_is_met_from_its_bound_on(rate, wanted):
    found = speeds([line("trl", 5_000), *([line("fused", rate)] if rate else [])])
    assert verdict(Target("7b", "fused", 3.0, "trl"), found, PEAK) == wanted


def test_a_target_without_a_peer_is_an_mfu():
    found = speeds([line("fused", 18_000)])
    assert verdict(Target("7b", "fused", 0.59, None), found, PEAK) == ("0.644", "met")
    assert verdict(Target("7b", "fused", 0.65, None), found, PEAK) == ("0.644", "not met")


def test_every_target_names_contenders_of_its_setting():
    for target in TARGETS:
        for name in filter(None, (target.contender, target.against)):
            assert target.setting in CONTENDERS[name].batches
    assert set(FASTEST) <= set(CONTENDERS)


def test_another_card_is_counted_against_its_own_rate():
    assert peak_flops({"device": "NVIDIA H200", "matmul_flops": 798e12}) == PEAK
    assert peak_flops({"device": "NVIDIA GeForce RTX 4090", "matmul_flops": 150e12}) == 150e12


def test_warm_up_is_not_timed():
    assert timed([10, 20, 30, 99], [0.0, 5.0, 6.0, 8.0], 1) == ([20, 30], [1.0, 2.0])
    with pytest.raises(ValueError, match="2 steps, of which 2 warm up"):
        timed([1, 2], [0.0, 1.0, 2.0], 2)


def test_a_job_survives_the_way_to_its_process(tmp_path: Path):
    job = make_job("fused", "7b", tmp_path / "r", tokens=100_000, tiny=False, whole_card=False, options={"profile": True})
    assert read_job(job.dump()) == job
    assert job.cap_gib == SETTINGS["7b"].cap_gib
    assert job.options == {"path": "fused", "profile": True}
    assert (job.schedule(33_600), job.warm_up) == (5, 2)
    assert (job.schedule(4_000), job.warm_up) == (6 + 25, 6)
    assert make_job("fused", "7b", tmp_path / "r", tokens=1, tiny=False, whole_card=True, options={}).cap_gib is None


def test_lengths_are_as_described():
    drawn = lengths(4000)
    assert sum(drawn) / 4000 == pytest.approx(700, rel=0.02)
    assert max(drawn) <= 2048


def test_products_are_told_apart_by_their_sides():
    assert product_category([[5120, 3584], [3584, 37888]], 152064) == "base products"
    assert product_category([[5120, 3584], [3584, 64]], 152064) == "LoRA products"
    assert product_category([[2048, 3584], [3584, 152064]], 152064) == "head and cross-entropy"


@pytest.mark.parametrize(
    ("kernel", "category"),
    [
        ("void pytorch_flash::flash_bwd_dq_dk_dv_loop_seqk_parallel_kernel", "attention"),
        ("void kDequantizeBlockwise<__nv_bfloat16, 512, 64, 8, 2>", "dequantisation"),
        ("unpack_nf4_kernel", "dequantisation"),
        ("rotate_backward_kernel", "norm, rope, SwiGLU"),
        ("cross_entropy_kernel", "head and cross-entropy"),
        ("void at::native::(anonymous namespace)::multi_tensor_apply_kernel<adam>", "optimiser"),
        ("void at::native::elementwise_kernel<128, 4>", "other"),
    ],
)
def test_kernels_are_told_by_their_names(kernel, category):
    assert kernel_category(kernel) == category
    assert category in SHARES


def test_shares_sum_to_one():
    shares = share([("base products", 30.0), ("attention", 10.0), ("base products", 40.0)])
    assert shares["base products"] == pytest.approx(0.875)
    assert sum(shares.values()) == pytest.approx(1)
    assert sum(share([]).values()) == 0


def test_recipes_are_run_with_their_own_params(tmp_path: Path):
    jobs = memory_jobs(tmp_path / "r", tiny=False)
    assert {job.contender.split(",")[0] for job in jobs} >= {name for name, _, _ in RECIPES}
    for job in jobs:
        TrainParams(**{**job.options["params"], "max_steps": 2})
    by_name = {(job.contender, job.shape): job.options for job in jobs}
    assert by_name[("eight_versions", "14b")]["row_tokens"] == 8192
    assert by_name[("medcot_7b", "7b")]["params"]["per_device_train_batch_size"] == 24
    assert by_name[("medcot_7b, a row a pass", "7b")]["tokens_per_pass"] == 2048
    assert by_name[("32 × 2,048 tokens in one pass", "7b")]["tokens_per_pass"] == 32 * 2048
    assert memory_jobs(tmp_path / "r", tiny=True)[0].options["row_tokens"] == 2048 // TINY


def test_the_plan_starts_with_the_device_and_a_checkpoint_comes_before_who_loads_it(tmp_path: Path):
    jobs = plan(parse(["--settings", "7b", "--only", "fused", "unsloth", "--unsloth-site", "x"]), tmp_path, tmp_path / "r")
    assert [job.contender for job, _ in jobs] == ["device", "checkpoint", "unsloth", "fused"]
    assert all(job.waits for job, _ in jobs)
    assert jobs[1][0].options["directory"] == jobs[2][0].options["checkpoint"]


def test_who_is_not_there_is_left_out_with_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.setattr("benchmarks.train.importlib.util.find_spec", lambda name: None if name == "unsloth" else name)
    jobs = contest("7b", parse(["--only", "fused", "unsloth", "prototype"]), tmp_path, tmp_path / "r")
    assert [job.contender for job, _ in jobs] == ["fused"]
    told = capsys.readouterr().out.splitlines()
    assert told == ["7b unsloth: left out, unsloth is not installed", "7b prototype: left out, there is no --prototype"]


def test_only_ours_is_profiled(tmp_path: Path):
    names = [job.contender for job, _ in contest("1.7b", parse(["--profile"]), tmp_path, tmp_path / "r")]
    assert names == ["fused", "plain"]


def test_the_stand_in_compiles_and_goes_only_where_it_is_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for name, text in FILES.items():
        if name.endswith(".py"):
            compile(text, name, "exec")
    monkeypatch.setattr("benchmarks.train_stand_in.importlib.metadata.version", lambda _: "2.11.0+cu130")
    monkeypatch.setattr("benchmarks.train_stand_in.importlib.util.find_spec", lambda _: None)
    assert stand_in_path(tmp_path) == [str(tmp_path)]
    assert (tmp_path / "flash_attn/__init__.py").is_file()
    monkeypatch.setattr("benchmarks.train_stand_in.importlib.metadata.version", lambda _: "2.13.0")
    assert stand_in_path(tmp_path) == []


@pytest.fixture
def runner(tmp_path: Path) -> Runner:
    return Runner(tmp_path, tmp_path, None, limit=30, seconds=None, ahead=True)


def test_a_child_that_fails_costs_a_line_and_the_next_one_runs(
    runner: Runner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    (tmp_path / "works.py").write_text(
        f"import sys; print('{READY}', flush=True); assert sys.stdin.readline() == 'go\\n'", encoding="utf-8"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    jobs = [(Job("missing", "7b", "7b", None, "r"), "no_such_module"), (Job("works", "7b", "7b", None, "r"), "works")]
    runner.run(jobs)
    imported, first, second = capsys.readouterr().out.splitlines()
    assert imported.startswith("2 processes have imported their libraries")
    assert "No module named no_such_module" in first
    assert "7b works: done" in second


def test_a_child_that_takes_too_long_is_ended(runner: Runner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "sleeps.py").write_text("import time; time.sleep(60)", encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    child = runner.start(Job("sleeps", "7b", "7b", None, "r"), "sleeps")
    assert child.finish(0.2) == "not done after 0 s"
    assert child.process.returncode is not None


def test_children_see_none_of_the_users_settings(runner: Runner, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MEDCOT_TRAIN_PATH", "plain")
    assert not [key for key in runner.environment(Job("fused", "7b", "7b", None, "r"), "x") if key.startswith("MEDCOT_")]


def test_the_report_says_what_it_was_measured_on(capsys: pytest.CaptureFixture[str]):
    device = {"setting": "", "contender": "device", "device": "NVIDIA H200", "total_bytes": 150 * 2**30, "matmul_flops": 795e12}
    peer = line("trl", 5_000, versions={"torch": "2.11.0", "trl": "1.16.0"})
    shares = {"setting": "7b", "contender": "fused", "shares": dict.fromkeys(SHARES, 1 / len(SHARES))}
    report(
        [
            device,
            line("fused", 16_000),
            peer,
            shares,
            line("medcot_7b", 9_000, said=["fused path: H200", "passes of up to 4,096 tokens, kept"]),
        ]
    )
    out = capsys.readouterr().out
    assert "NVIDIA H200, 150.0 GiB; a large bfloat16 product runs at 795.0 TFLOP/s, MFU is counted against 790.0" in out
    assert "torch 2.11.0, trl 1.16.0" in out
    assert "| 7b | medcot, fused path | ≥ 3.0 × TRL, default (padded) | 3.200 | met |" in out
    assert "| attention | 12.5% |" in out
    assert "| medcot_7b | 7b | 4 | fused | up to 4,096 tokens, kept | 22.5 | 20.0 | 21.5 | 9,000 |" in out
    assert "projected" in out


def test_without_a_gpu_only_the_toy_is_run():
    hidden = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    command, root = [sys.executable, "benchmarks/train.py"], Path(__file__).parent.parent
    done = subprocess.run(command, capture_output=True, text=True, cwd=root, env=hidden, timeout=120)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "benchmarks/train.py needs a GPU; --tiny runs every contender on a toy without one\n"


def test_it_starts_as_a_file_and_shows_old_results(tmp_path: Path):
    command = [sys.executable, "benchmarks/train.py", "--show", str(tmp_path / "none.jsonl")]
    result = subprocess.run(command, cwd=Path(__file__).parent.parent, capture_output=True, text=True, check=True)
    assert "projected" in result.stdout
