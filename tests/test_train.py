"""Stage train from files to files: what it writes, that it resumes and repeats to the byte, and what it refuses."""

from __future__ import annotations

import csv
import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from conftest import ROOT
from safetensors.torch import load_file
from train_factory import CPU, Base, read_metrics, write_train_workspace
from transformers import TrainerCallback

from medcot import training
from medcot.adapters import Identity
from medcot.chat_template import check_chat_template
from medcot.model import load_base, load_tuned
from medcot.model_params import ModelParams
from medcot.stage import run_stage
from medcot.template import get_template
from medcot.tokenizer import check_transformers_load, load_tokenizer
from medcot.train_params import TrainParams
from stages import train


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Base:
    return Base(tmp_path_factory.mktemp("base"))


def run_train() -> int:
    return run_stage("train", train.main)


def adapter_bytes(root: Path) -> bytes:
    return (root / "models/adapter/adapter_model.safetensors").read_bytes()


def table(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def edit(root: Path, **train_values: Any) -> None:
    content = yaml.safe_load((root / "params.yaml").read_text(encoding="utf-8"))
    content["train"] |= train_values
    (root / "params.yaml").write_text(yaml.safe_dump(content, allow_unicode=True), encoding="utf-8")


@pytest.mark.parametrize(("device", "path", "counts"), [("cpu", "plain", False), ("cpu", "fused", True), ("cuda", "plain", True)])
def test_the_code_of_the_fused_path_is_part_of_a_run_wherever_it_is_executed(device: str, path: str, counts: bool, in_tmp: Path) -> None:
    hardware = dataclasses.replace(CPU, device=device)
    parts = train.identify(TrainParams(), ModelParams(), hardware, Identity("base", "template", "tokenizer"), {}, path)
    assert ("medcot.fused.linear" in parts) is counts
    assert parts["machine.device"] == f'"{device}"'


def test_the_stage_writes_adapter_tokenizer_logs_settings_and_metrics(base: Base, in_tmp: Path, capfd: pytest.CaptureFixture[str]) -> None:
    write_train_workspace(in_tmp, base, max_steps=5, eval_steps=2, save_steps=2, learning_rate=1e-3)
    assert run_train() == 0
    out = in_tmp / "models/adapter"
    assert sorted(path.name for path in out.iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
        "chat_template.jinja",
        "eval_log.csv",
        "llamafactory.yaml",
        "medcot.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "train_log.csv",
    ]
    log = table(out / "train_log.csv")
    assert list(log[0]) == ["step", "loss", "learning_rate", "grad_norm"]
    assert [row["step"] for row in log] == ["1", "2", "3", "4", "5"]
    assert all(float(value) >= 0 for row in log for value in row.values())
    assert [row["step"] for row in table(out / "eval_log.csv")] == ["2", "4", "5"]
    metrics = read_metrics(in_tmp)
    assert metrics["eval_loss"] == pytest.approx(float(table(out / "eval_log.csv")[-1]["eval_loss"]), rel=1e-6)
    assert metrics["num_rows"] == 16
    assert metrics["num_steps"] == 5
    assert metrics["rows_per_step"] == 4
    assert metrics["moved_rate"] > 0.9
    assert metrics["num_supervised_tokens"] == sum(label >= 0 for row in base.encoded() for label in row.labels)
    assert load_tokenizer(out).fingerprint == base.tok.fingerprint
    check_chat_template(check_transformers_load(out), base.tok, get_template("qwen3"), "", ["胸痛三天？", "Fever. What now?"])
    assert json.loads((out / "adapter_config.json").read_text())["base_model_name_or_path"] == "models/base/model"
    settings = (out / "llamafactory.yaml").read_text(encoding="utf-8")
    assert settings.count("finetuning_type:") == 1
    assert yaml.safe_load(settings)["learning_rate"] == 1e-3
    assert yaml.safe_load(settings)["template"] == "qwen3"
    assert not list((in_tmp / ".medcot/checkpoints").iterdir())  # a finished run keeps none
    captured = capfd.readouterr()
    assert captured.out == ""
    assert "no GPU is used" in captured.err
    assert not {"it/s", "Warning", "kernels", "\r"} & {word for word in ("it/s", "Warning", "kernels", "\r") if word in captured.err}


def test_the_saved_adapter_is_the_trained_one(base: Base, in_tmp: Path) -> None:
    for values in ({}, {"use_dora": True}, {"additional_target": "embed_tokens,lm_head"}, {"use_rslora": True}):
        write_train_workspace(in_tmp, base, learning_rate=5e-3, max_steps=6, **values)
        assert run_train() == 0
        val = val_loss(in_tmp, "nf4")
        assert val == pytest.approx(read_metrics(in_tmp)["eval_loss"], rel=1e-5), values
        assert val < base_loss(in_tmp, "nf4") - 0.1


def val_loss(root: Path, quantization: str) -> float:
    return nll_of(load_tuned(root / "models/base/model", root / "models/adapter", quantization, CPU))


def base_loss(root: Path, quantization: str) -> float:
    return nll_of(load_base(root / "models/base/model", quantization, CPU))


def nll_of(model: Any) -> float:
    """Mean NLL per supervised token of the workspace's val rows."""
    template = train.get_template("qwen3")
    rows = train.encode_rows(
        train.read_rows(train.DATA / "val.json", template), load_tokenizer(Path("models/base/tokenizer")), template, ""
    )
    total, count = 0.0, 0
    for row in rows:
        ids, labels = torch.tensor([row.input_ids]), torch.tensor(row.labels[1:])
        with torch.no_grad():
            log_probs = torch.log_softmax(model(ids).logits[0, :-1].float(), -1)
        kept = labels >= 0
        total -= log_probs[kept, labels[kept]].sum().item()
        count += int(kept.sum())
    return total / count


def test_the_best_model_is_what_is_saved(base: Base, in_tmp: Path) -> None:
    write_train_workspace(
        in_tmp, base, num_rows=4, learning_rate=3e-2, max_steps=20, eval_steps=2, lr_scheduler_type="constant", load_best_model_at_end=True
    )
    assert run_train() == 0
    logged = [float(row["eval_loss"]) for row in table(in_tmp / "models/adapter/eval_log.csv")]
    assert min(logged) < logged[-1]
    assert val_loss(in_tmp, "nf4") == pytest.approx(min(logged), rel=1e-5)
    assert read_metrics(in_tmp)["eval_loss"] == pytest.approx(min(logged), rel=1e-5)


def test_finetuning_type_none_changes_no_bit_of_the_logits(base: Base, in_tmp: Path) -> None:
    write_train_workspace(in_tmp, base, finetuning_type="none", use_dora=True, additional_target="embed_tokens")
    assert run_train() == 0
    ids = torch.tensor([row.input_ids[:20] for row in base.encoded(4)])
    with torch.no_grad():
        tuned = load_tuned(in_tmp / "models/base/model", in_tmp / "models/adapter", "nf4", CPU)(ids).logits
        untouched = load_base(in_tmp / "models/base/model", "nf4", CPU)(ids).logits
    assert torch.equal(tuned, untouched)
    assert read_metrics(in_tmp)["num_steps"] == 0
    assert table(in_tmp / "models/adapter/train_log.csv") == []


def test_a_full_fine_tune_saves_a_whole_model(base: Base, in_tmp: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_train_workspace(in_tmp, base, finetuning_type="full", learning_rate=1e-3)
    assert run_train() == 2
    assert "train.finetuning_type: a full fine-tune needs weights that are not quantised, got full" in capsys.readouterr().err
    write_train_workspace(in_tmp, base, "none", finetuning_type="full", learning_rate=1e-3, save_steps=2)
    assert run_train() == 0
    assert (in_tmp / "models/adapter/model.safetensors").is_file()
    assert val_loss(in_tmp, "none") == pytest.approx(read_metrics(in_tmp)["eval_loss"], rel=1e-5)
    assert read_metrics(in_tmp)["num_trainable_parameters"] > 100_000
    assert read_metrics(in_tmp)["moved_rate"] > 0.9


# ---- resume and repeat


class Stop(TrainerCallback):  # type: ignore[misc]
    """Kill this process once a step is done."""

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        super().on_step_end(args, state, control, **kwargs)  # Progress, in killed_run
        if state.global_step == 5:
            os.kill(os.getpid(), signal.SIGKILL)


def killed_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """Run the stage in a forked child that dies of SIGKILL after step 5."""
    child = os.fork()
    if child == 0:
        progress = training.Progress
        monkeypatch.setattr(training, "Progress", lambda: type("Both", (Stop, progress), {})())
        run_train()
        os._exit(0)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL


RESUMABLE = {"max_steps": 8, "learning_rate": 1e-2, "lora_dropout": 0.3, "eval_steps": 1, "save_steps": 2, "neftune_noise_alpha": 2.0}


def test_a_killed_run_resumes_to_the_very_bytes_of_an_uninterrupted_one(
    base: Base, in_tmp: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_train_workspace(in_tmp, base, **RESUMABLE)
    assert run_train() == 0
    whole = {path.name: path.read_bytes() for path in (in_tmp / "models/adapter").iterdir()}
    metrics = read_metrics(in_tmp)
    shutil.rmtree(in_tmp / "models/adapter")
    killed_run(monkeypatch)
    assert not (in_tmp / "models/adapter").exists()
    checkpoints = next((in_tmp / ".medcot/checkpoints").iterdir())
    assert sorted(path.name for path in checkpoints.glob("checkpoint-*")) == ["checkpoint-2", "checkpoint-4"]
    # The newest was cut short while it was written: it is passed over for the one before.
    shutil.copytree(checkpoints / "checkpoint-2", checkpoints / "checkpoint-6", ignore=shutil.ignore_patterns("complete"))
    (checkpoints / "checkpoint-4/complete").unlink()
    capsys.readouterr()
    assert run_train() == 0
    assert f"resuming from {checkpoints.relative_to(in_tmp)}/checkpoint-2" in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in (in_tmp / "models/adapter").iterdir()} == whole
    assert read_metrics(in_tmp) == metrics


def test_early_stopping_remembers_its_patience_over_a_kill(base: Base, in_tmp: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    values = {
        **RESUMABLE,
        "learning_rate": 0.0,
        "max_steps": 30,
        "load_best_model_at_end": True,
        "early_stopping_steps": 6,
        "save_steps": 1,
    }
    write_train_workspace(in_tmp, base, **values)
    assert run_train() == 0
    assert read_metrics(in_tmp)["num_steps"] == 7  # the first is the best, six more are not better
    killed_run(monkeypatch)
    assert run_train() == 0
    assert read_metrics(in_tmp)["num_steps"] == 7


@pytest.mark.parametrize("what", ["params", "data", "base", "code", "model section"])
def test_a_changed_run_starts_fresh(
    base: Base, in_tmp: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], what: str
) -> None:
    write_train_workspace(in_tmp, base, **RESUMABLE)
    killed_run(monkeypatch)
    if what == "params":
        edit(in_tmp, learning_rate=2e-2)
    elif what == "data":
        path = in_tmp / "data/llamafactory/train.json"
        path.write_text(path.read_text(encoding="utf-8").replace("胸痛", "腹痛"), encoding="utf-8")
    elif what == "base":
        other = Base(in_tmp / "other")
        config = json.loads((other.model_dir / "config.json").read_text())
        (other.model_dir / "config.json").write_text(json.dumps({**config, "rms_norm_eps": 1e-5}), encoding="utf-8")
        train.read_base_record.__globals__["describe_model_dir"]("demo", other.model_dir, path=".").write(other.model_dir)
        shutil.copytree(other.model_dir, in_tmp / "models/base/model", dirs_exist_ok=True)
    elif what == "code":
        copy = in_tmp / "training.py"
        copy.write_text(Path(training.__file__).read_text(encoding="utf-8") + "\n# changed\n", encoding="utf-8")
        monkeypatch.setattr(training, "__file__", str(copy))
    else:
        content = yaml.safe_load((in_tmp / "params.yaml").read_text(encoding="utf-8"))
        content["model"]["system"] = "你是医生。"
        (in_tmp / "params.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
    capsys.readouterr()
    assert run_train() == 0
    assert "resuming" not in capsys.readouterr().err
    assert read_metrics(in_tmp)["num_steps"] == 8


def test_two_runs_give_the_same_bytes_whatever_the_hash_seed(base: Base, in_tmp: Path) -> None:
    write_train_workspace(in_tmp, base, max_steps=3, lora_dropout=0.1, additional_target="embed_tokens")
    assert run_train() == 0
    first = {path.name: path.read_bytes() for path in (in_tmp / "models/adapter").iterdir()}
    env = {**os.environ, "PYTHONHASHSEED": "7", "PYTHONPATH": os.pathsep.join((*sys.path, str(ROOT))), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-m", "stages.train"], env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    assert all(line.startswith(("model: ", "train: ")) for line in done.stderr.splitlines()), done.stderr
    assert {path.name: path.read_bytes() for path in (in_tmp / "models/adapter").iterdir()} == first


# ---- refusals


def test_a_failed_run_keeps_the_old_adapter(base: Base, in_tmp: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_train_workspace(in_tmp, base)
    assert run_train() == 0
    old = adapter_bytes(in_tmp)
    edit(in_tmp, lora_target="q_prj")
    assert run_train() == 2
    assert "params.yaml: train.lora_target: the model has no such layer, got q_prj; did you mean q_proj?" in capsys.readouterr().err
    assert adapter_bytes(in_tmp) == old
    assert sorted(path.name for path in (in_tmp / "models").iterdir()) == ["adapter", "base"]


def test_a_base_that_changed_after_stage_base_is_refused(base: Base, in_tmp: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_train_workspace(in_tmp, base)
    path = in_tmp / "models/base/model/model.safetensors"
    weights = load_file(path)
    path.write_bytes(path.read_bytes()[:-4] + b"\x00\x00\x00\x01")
    assert len(weights) > 0
    assert run_train() == 2
    assert "models/base/model/model.safetensors: the file changed since stage base recorded it" in capsys.readouterr().err


def test_a_template_that_does_not_fit_the_tokenizer_is_refused(base: Base, in_tmp: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_train_workspace(in_tmp, base)
    content = yaml.safe_load((in_tmp / "params.yaml").read_text(encoding="utf-8"))
    (in_tmp / "params.yaml").write_text(yaml.safe_dump({**content, "model": {"template": "deepseekr1"}}), encoding="utf-8")
    assert run_train() == 2
    assert "template deepseekr1 does not fit the tokenizer" in capsys.readouterr().err


# ---- train.adapter


def test_an_adapter_that_was_trained_here_comes_back_unchanged(base: Base, in_tmp: Path) -> None:
    write_train_workspace(in_tmp, base, learning_rate=1e-2)
    assert run_train() == 0
    before, loss = load_file(in_tmp / "models/adapter/adapter_model.safetensors"), read_metrics(in_tmp)["eval_loss"]
    (in_tmp / "models/import_adapter").mkdir()
    shutil.move(in_tmp / "models/adapter", in_tmp / "models/import_adapter/mine")
    edit(in_tmp, adapter="mine")
    assert run_train() == 0
    after = load_file(in_tmp / "models/adapter/adapter_model.safetensors")
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert val_loss(in_tmp, "nf4") == pytest.approx(loss, rel=1e-5)
    assert read_metrics(in_tmp)["num_steps"] == 0


def test_an_adapter_that_is_not_there_is_one_line(base: Base, in_tmp: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_train_workspace(in_tmp, base, adapter="没有")
    assert run_train() == 2
    expected = "error: params.yaml: train.adapter: no such directory, got 没有; put the adapter under models/import_adapter/"
    assert expected in capsys.readouterr().err
