"""Several processes that share a step: what they sum, that they train as one does, and how one failure ends them all."""

from __future__ import annotations

import csv
import json
import os
import pickle
import random
import shutil
import signal
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import ROOT
from safetensors.torch import load_file
from train_factory import Base, read_metrics, write_train_workspace
from transformers import TrainerCallback

from medcot import distributed, training
from medcot.distributed import (
    RENDEZVOUS,
    World,
    barrier,
    check_same,
    checksum,
    from_main,
    join,
    leave,
    own_random,
    share,
    sum_gradients,
    sum_values,
    world,
)
from medcot.errors import DataError, MachineError, TrainingError
from medcot.interruption import SaveWhenTerminated
from medcot.launcher import launch, pass_on, requested_processes
from medcot.stage import run_stage
from medcot.worker import end_with, see_one_gpu
from stages import train


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Base:
    return Base(tmp_path_factory.mktemp("base"))


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def fork_together(count: int, body: Callable[[], Any], out: Path) -> list[int]:
    """Run a function in so many forked workers, which spares them the imports; wait statuses, and what it returns pickled to out/<rank>."""
    out.mkdir(exist_ok=True)
    port, pids = free_port(), []
    for rank in range(count):
        pids.append(os.fork())
        if pids[-1] == 0:
            values = {"RANK": rank, "WORLD_SIZE": count, "LOCAL_RANK": rank, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
            os.environ |= {name: str(value) for name, value in values.items()}
            code = 1
            try:
                join()
                (out / str(rank)).write_bytes(pickle.dumps(body()))
                leave()
                code = 0
            finally:
                os._exit(code)
    return [os.waitpid(pid, 0)[1] for pid in pids]


def together(count: int, body: Callable[[], Any], out: Path) -> list[Any]:
    """What a function returns in each of so many workers."""
    assert fork_together(count, body, out) == [0] * count
    return [pickle.loads((out / str(rank)).read_bytes()) for rank in range(count)]


# ---- shares


def test_each_row_goes_to_one_process_and_the_processes_get_nearly_equal_tokens() -> None:
    rng = random.Random(6)
    for count in (0, 1, 2, 3, 7, 48):
        lengths = [rng.randint(1, 2048) for _ in range(count)]
        for size in (1, 2, 3, 8):
            shares = [share(lengths, rank, size) for rank in range(size)]
            assert sorted(p for one in shares for p in one) == list(range(count))
            assert all(one == sorted(one) for one in shares)
            loads = [sum(lengths[p] for p in one) for one in shares]
            assert max(loads) - min(loads) <= max(lengths, default=0)
    assert share([5, 5, 5, 5], 0, 2) == [0, 2]
    assert share([700] * 47 + [701], 0, 2) == share([700] * 47 + [701], 0, 2)


# ---- what is summed


def exchange() -> dict[str, Any]:
    rank = world().rank
    params = [
        torch.nn.Parameter(torch.zeros(n, dtype=d))
        for n, d in ((3, torch.float32), (2, torch.float32), (1, torch.bfloat16), (4, torch.float32))
    ]
    params[0].grad = torch.full((3,), 10.0**rank)
    if rank == 1:
        params[1].grad = torch.tensor([1.5, -2.0])
    params[2].grad = torch.ones(1, dtype=torch.bfloat16)
    sum_gradients(iter(params))
    torch.manual_seed(0)
    with own_random(42, 7):
        mine = torch.rand(2).tolist()
    return {
        "world": world(),
        "grads": [None if p.grad is None else p.grad.tolist() for p in params],
        "dtype": params[2].grad.dtype,
        "values": sum_values([0.1 * (rank + 1), float("inf") if rank else 1.0]),
        "main": from_main(lambda: f"进程 {rank}"),
        "random": (mine, torch.rand(2).tolist()),
        "hidden": [name for name in RENDEZVOUS if name in os.environ],
    }


@pytest.mark.parametrize("bucket", [2**26, 4])
def test_gradients_and_values_are_summed_and_every_process_gets_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bucket: int
) -> None:
    monkeypatch.setattr(distributed, "BUCKET", bucket)
    results = together(3, exchange, tmp_path / "out")
    assert [one["world"] for one in results] == [World(0, 3), World(1, 3), World(2, 3)]
    for one in results:
        # A process without a gradient counts as zero; where nobody has one it stays None, so that the optimiser passes over it.
        assert one["grads"] == [[111.0] * 3, [1.5, -2.0], [3.0], None]
        assert one["dtype"] == torch.bfloat16
        assert one["values"] == [0.1 + 0.2 + 0.1 * 3, float("inf")]
        assert one["main"] == "进程 0"
        assert one["hidden"] == []
        assert one["random"][1] == results[0]["random"][1]
    assert len({tuple(one["random"][0]) for one in results}) == 3
    torch.manual_seed(0)
    assert torch.rand(2).tolist() == results[0]["random"][1]  # drawing in the block has moved nothing outside


def test_models_that_differ_in_one_element_are_refused(tmp_path: Path) -> None:
    def compare() -> str:
        model = torch.nn.Linear(3, 2)
        model.load_state_dict({"weight": torch.ones(2, 3), "bias": torch.zeros(2)})
        check_same(model, "at the start")
        if world().rank == 1:
            model.bias.data[1] = 1e-7
        try:
            check_same(model, "at the end")
        except TrainingError as error:
            return str(error)
        return ""

    remedy = "the GPUs of a run must be of one kind; report it if they are"
    expected = f"train: the models of the processes differ at the end, got 1 of 2; {remedy}"
    assert together(2, compare, tmp_path / "out") == [expected] * 2


def test_a_checksum_sees_every_byte_of_a_tensor_wherever_it_lies() -> None:
    for dtype in (torch.uint8, torch.bfloat16, torch.float32):
        values = torch.arange(37).to(dtype)
        shifted = torch.cat([values[:1], values])[1:]  # the same values at an odd place in memory
        assert checksum(shifted) == checksum(values)
        for i in (0, 5, 36):
            changed = values.clone()
            changed[i] += 1
            assert checksum(changed) != checksum(values)


def test_one_process_alone_sums_nothing_and_loads_no_torch_distributed() -> None:
    p = torch.nn.Parameter(torch.zeros(1))
    sum_gradients([p])
    barrier()
    check_same(torch.nn.Linear(1, 1), "now")
    assert p.grad is None
    assert world() == World(0, 1)
    assert world().is_main
    assert sum_values([0.1]) == [0.1]
    assert from_main(lambda: 3) == 3
    torch.manual_seed(1)
    expected = torch.rand(1)
    torch.manual_seed(1)
    with own_random(42, 1):
        assert torch.equal(torch.rand(1), expected)


# ---- the stage


def table(path: Path) -> list[dict[str, float]]:
    with path.open(encoding="utf-8") as file:
        return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]


def check_equal_training(one: Path, other: Path) -> None:
    """Losses, gradient norms, val losses and weights of two adapters are equal but for the order in which floats were added."""
    for name in ("train_log.csv", "eval_log.csv"):
        for a, b in zip(table(one / name), table(other / name), strict=True):
            assert a == pytest.approx(b, rel=2e-5)
    theirs = load_file(other / "adapter_model.safetensors")
    for name, value in load_file(one / "adapter_model.safetensors").items():
        torch.testing.assert_close(value, theirs[name], rtol=1e-3, atol=1e-5)


SHARED: dict[str, Any] = {"max_steps": 6, "learning_rate": 1e-2, "eval_steps": 2, "save_steps": 2}


def test_three_processes_train_as_one_does_even_where_a_step_has_fewer_rows_than_processes(base: Base, in_tmp: Path) -> None:
    # 18 rows in steps of 4: the fifth has 2, and the sixth is of the next epoch.
    write_train_workspace(in_tmp, base, num_rows=18, **SHARED)
    assert run_stage("train", train.main) == 0
    shutil.move("models/adapter", "alone")
    alone = read_metrics(in_tmp)
    together(3, train.main, in_tmp / "out")
    check_equal_training(Path("alone"), Path("models/adapter"))
    assert read_metrics(in_tmp) == pytest.approx(alone, rel=1e-5)
    assert not list((in_tmp / ".medcot/checkpoints").iterdir())


class Stop(TrainerCallback):  # type: ignore[misc]
    """Kill the process after step 3."""

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        super().on_step_end(args, state, control, **kwargs)
        if state.global_step == 3:
            os.kill(os.getpid(), signal.SIGKILL)


def test_a_killed_run_of_two_processes_resumes_to_the_same_bytes_dropout_included(
    base: Base, in_tmp: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_train_workspace(in_tmp, base, num_rows=18, lora_dropout=0.3, max_steps=4, learning_rate=1e-2, save_steps=2)
    together(2, train.main, in_tmp / "out")
    whole = {path.name: path.read_bytes() for path in (in_tmp / "models/adapter").iterdir()}
    shutil.rmtree("models/adapter")
    with monkeypatch.context() as patch:
        patch.setattr(training, "SaveWhenTerminated", lambda: type("Both", (Stop, SaveWhenTerminated), {})())
        assert fork_together(2, train.main, in_tmp / "out") == [signal.SIGKILL] * 2
    run = next((in_tmp / ".medcot/checkpoints").iterdir())
    assert [path.name for path in sorted(run.glob("checkpoint-*"))] == ["checkpoint-2"]
    together(2, train.main, in_tmp / "out")
    assert {path.name: path.read_bytes() for path in (in_tmp / "models/adapter").iterdir()} == whole


def test_the_environment_variable_alone_makes_the_stage_train_in_two_processes(
    base: Base, in_tmp: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    write_train_workspace(in_tmp, base, num_rows=18, max_steps=2, learning_rate=1e-2, eval_steps=1)
    assert run_stage("train", train.main) == 0
    shutil.move("models/adapter", "alone")
    capfd.readouterr()
    monkeypatch.setenv("MEDCOT_PROCESSES", "2")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join((*sys.path, str(ROOT))))
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    assert run_stage("train", train.main) == 0
    check_equal_training(Path("alone"), Path("models/adapter"))
    captured = capfd.readouterr()
    assert captured.out == ""
    assert all(line.startswith(("model: ", "train: ")) for line in captured.err.splitlines()), captured.err
    assert "train: 2 processes share the rows of each step" in captured.err
    assert captured.err.count("val loss") == captured.err.count("train: step 2 of 2") == 1
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == handlers


# ---- failures

JOB = """
from medcot.distributed import barrier, world
from medcot.errors import DataError
def main():
    barrier()
    if world().rank == 1:
        raise DataError("行.json:3", "broken", "mend it", got="值")
    barrier()
"""


def test_one_failing_process_ends_all_with_its_line_and_its_exit_code(
    in_tmp: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (in_tmp / "job.py").write_text(JOB, encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join((*sys.path, str(ROOT), str(in_tmp))))
    with pytest.raises(SystemExit) as caught:
        run_stage("job", lambda: launch("job", 2))
    assert caught.value.code == 2
    assert capfd.readouterr().err == "job: 2 processes share the rows of each step\nerror: 行.json:3: broken, got 值; mend it\n"


def test_a_worker_ends_when_its_launcher_is_killed() -> None:
    reads, writes = os.pipe()
    launcher = os.fork()
    if launcher == 0:
        if os.fork() == 0:
            end_with(os.getppid())
            os.write(writes, f"{os.getpid()}\n".encode())
        time.sleep(60)
        os._exit(0)
    worker = int(os.read(reads, 20))
    os.kill(launcher, signal.SIGKILL)
    os.waitpid(launcher, 0)
    deadline = time.monotonic() + 20
    while Path(f"/proc/{worker}").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not Path(f"/proc/{worker}").exists()


def write_report(directory: Path, rank: int, moment: int, code: int, text: str) -> None:
    (directory / f"error-{rank}.json").write_text(json.dumps({"moment": moment, "code": code, "text": text}), encoding="utf-8")


def test_the_first_failure_is_the_one_that_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_report(tmp_path, 0, 20, 4, "Traceback: Connection closed by peer\n")
    write_report(tmp_path, 1, 10, 4, "error: train: step 3, records 甲: the loss is not finite\n")
    with pytest.raises(SystemExit) as caught:
        pass_on({0: 4, 1: -signal.SIGTERM}, tmp_path)
    assert caught.value.code == 4
    assert capsys.readouterr().err == "error: train: step 3, records 甲: the loss is not finite\n"
    remedy = "see whether the machine ran out of memory, then run the same command again to resume"
    with pytest.raises(MachineError, match=f"train: process 1 was ended by SIGKILL; {remedy}"):
        pass_on({0: 4, 1: -signal.SIGKILL}, tmp_path)


def test_a_process_that_says_nothing_is_told_by_its_exit_code(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="train: process 1 ended without a word, got 7; run it with MEDCOT_PROCESSES=1 to see why"):
        pass_on({1: 7}, tmp_path)
    with pytest.raises(MachineError, match="train: process 0 was ended by SIGTERM"):
        pass_on({0: -signal.SIGTERM}, tmp_path)


@pytest.mark.parametrize(("value", "count"), [("", 1), ("1", 1), (" 2 ", 2), ("4", 4)])
def test_the_number_of_processes_is_read(monkeypatch: pytest.MonkeyPatch, value: str, count: int) -> None:
    monkeypatch.setenv("MEDCOT_PROCESSES", value)
    assert requested_processes(4) == count


@pytest.mark.parametrize("value", ["0", "-1", "two", "1.5", "２", "9" * 5000])
def test_what_is_no_number_of_processes_is_refused(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("MEDCOT_PROCESSES", value)
    remedy = "set it to the number of GPUs to train on, or unset it"
    with pytest.raises(DataError, match=f"environment: MEDCOT_PROCESSES: not a whole number of at least 1, got {value[:9]}.*; {remedy}"):
        requested_processes(4)


def test_more_processes_than_rows_or_gpus_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEDCOT_PROCESSES", "5")
    with pytest.raises(DataError, match="more processes than rows in an optimiser step, which are 4, got 5; set it to 4 at most"):
        requested_processes(4)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(MachineError, match="more processes than visible GPUs, which are 2, got 5; set it to 2 at most"):
        requested_processes(16)


@pytest.mark.parametrize(
    ("visible", "rank", "left"),
    [(None, 1, "1"), ("2,5", 1, "5"), ("GPU-a, MIG-b", 1, "MIG-b"), ("", 0, ""), ("", 1, ""), ("3", 0, "3")],
)
def test_each_process_sees_the_one_gpu_of_its_rank(visible: str | None, rank: int, left: str) -> None:
    env = {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}
    see_one_gpu(env, rank)
    assert env == {"CUDA_VISIBLE_DEVICES": left}
