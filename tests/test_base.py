"""Stage base: the demo to the byte, and local directories as the hub has them, whole or broken."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import ROOT
from factories import write_r1_tokenizer
from safetensors.torch import load_file, save_file
from train_factory import CPU, Base, rows

from medcot.model import load_base, read_base_record
from medcot.params import load_section
from medcot.records import write_jsonl
from medcot.stage import run_stage
from medcot.tokenizer import load_tokenizer
from stages import base as stage


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Base:
    return Base(tmp_path_factory.mktemp("base"))


def write_params(root: Path, **values: Any) -> None:
    (root / "params.yaml").write_text(yaml.safe_dump({"base": values}, allow_unicode=True), encoding="utf-8")


def write_demo(root: Path, **values: Any) -> None:
    """A workspace for a demo of three steps."""
    write_params(root, **{"steps": 3, "batch_size": 4, **values})
    (root / "data/sample").mkdir(parents=True, exist_ok=True)
    texts = ({"Question": row.question, "Complex_CoT": row.reasoning, "Response": row.answer} for row in rows(24))
    write_jsonl(root / "data/sample/base.jsonl", texts)
    write_jsonl(root / "data/sample/phrases.jsonl", [])


def run_base() -> int:
    return run_stage("base", stage.main)


def outputs(root: Path) -> dict[str, bytes]:
    return {
        str(p.relative_to(root)): p.read_bytes() for d in ("models/base", "metrics") for p in sorted((root / d).rglob("*")) if p.is_file()
    }


def local(root: Path, base: Base, name: str = "tiny") -> Path:
    """A model directory in hub layout under models/import/, and params that name it."""
    target = root / "models/import" / name
    shutil.copytree(base.model_dir, target, ignore=shutil.ignore_patterns("base.json"))
    shutil.copytree(base.tokenizer_dir, target, dirs_exist_ok=True)
    write_params(root, source="local", path=name)
    return target


def refused(capsys: pytest.CaptureFixture[str], code: int) -> str:
    """Run the stage, expect this exit code and nothing at the final paths; returns the one line."""
    assert run_base() == code
    lines = capsys.readouterr().err.splitlines()
    errors = [line for line in lines if line.startswith("error: ")]
    assert len(errors) == 1
    assert "Traceback" not in "".join(lines)
    assert not Path("models/base/model").exists()
    assert not Path("metrics/base.json").exists()
    return errors[0]


# ---- demo


def test_the_demo_is_a_base_that_the_other_stages_can_load(in_tmp: Path, capfd: pytest.CaptureFixture[str]) -> None:
    write_demo(in_tmp)
    assert run_base() == 0
    tok, (record, weights) = load_tokenizer(stage.TOKENIZER), read_base_record(stage.MODEL)
    metrics = json.loads(stage.METRICS.read_text(encoding="utf-8"))
    assert weights == stage.MODEL
    model = load_base(stage.MODEL, "nf4", CPU)
    assert metrics["num_parameters"] == record.num_parameters == load_base(stage.MODEL, "none", CPU).num_parameters()
    assert metrics["vocab_size"] == len(tok) == model.config.vocab_size
    assert metrics["fingerprint"] == record.fingerprint
    assert 0 < metrics["train_nll"] < 10
    assert model.generation_config.eos_token_id == tok.eos_id
    captured = capfd.readouterr()
    assert captured.out == ""
    assert "it/s" not in captured.err
    assert "Warning" not in captured.err


def test_the_demo_is_the_same_to_the_byte_whatever_hash_seed_and_threads(in_tmp: Path) -> None:
    write_demo(in_tmp)
    assert run_base() == 0
    first = outputs(in_tmp)
    assert {"models/base/tokenizer/tokenizer.json", "models/base/model/model.safetensors", "metrics/base.json"} < set(first)
    env = {
        **os.environ,
        "PYTHONHASHSEED": "9",
        "OMP_NUM_THREADS": "2",
        "OMP_WAIT_POLICY": "passive",
        "RAYON_NUM_THREADS": "2",
        "TOKENIZERS_PARALLELISM": "true",
    }
    done = subprocess.run(
        [sys.executable, "-m", "stages.base"],
        env={**env, "PYTHONPATH": os.pathsep.join((*sys.path, str(ROOT)))},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    assert all(line.startswith("base: ") for line in done.stderr.splitlines()), done.stderr
    assert outputs(in_tmp) == first
    write_demo(in_tmp, seed=7)
    assert run_base() == 0
    other = outputs(in_tmp)
    assert other["models/base/tokenizer/tokenizer.json"] == first["models/base/tokenizer/tokenizer.json"]
    assert other["models/base/model/model.safetensors"] != first["models/base/model/model.safetensors"]


def test_the_demo_needs_its_rows(in_tmp: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_demo(in_tmp)
    (in_tmp / "data/sample/base.jsonl").unlink()
    assert "data/sample/base.jsonl: the file is missing" in refused(capsys, 2)


def test_the_section_of_the_repository_is_valid() -> None:
    assert load_section("base", stage.BaseParams, ROOT / "params.yaml").source == "demo"
    assert [name for name, field in stage.BaseParams.model_fields.items() if not field.description] == []


# ---- local


def test_a_local_model_is_recorded_where_it_lies(base: Base, in_tmp: Path, capsys: pytest.CaptureFixture[str]) -> None:
    local(in_tmp, base, "小模型")
    assert run_base() == 0
    record, weights = read_base_record(stage.MODEL)
    assert weights == Path("models/import/小模型")
    assert record.fingerprint == read_base_record(base.model_dir)[0].fingerprint
    assert sorted(path.name for path in stage.MODEL.iterdir()) == ["base.json"]
    assert load_tokenizer(stage.TOKENIZER).fingerprint == base.tok.fingerprint
    assert load_base(stage.MODEL, "none", CPU).num_parameters() == record.num_parameters
    assert "outside" not in capsys.readouterr().err


def test_sharded_weights_load_alike(base: Base, in_tmp: Path) -> None:
    target = local(in_tmp, base)
    tensors = load_file(target / "model.safetensors")
    names = sorted(tensors)
    parts = {"model-00001-of-00002.safetensors": names[:5], "model-00002-of-00002.safetensors": names[5:]}
    for file, part in parts.items():
        save_file({name: tensors[name] for name in part}, target / file, metadata={"format": "pt"})
    index = {"metadata": {}, "weight_map": {name: file for file, part in parts.items() for name in part}}
    (target / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    (target / "model.safetensors").unlink()
    assert run_base() == 0
    loaded, whole = load_base(stage.MODEL, "none", CPU).state_dict(), base.model("none").state_dict()
    assert all((loaded[name] == whole[name]).all() for name in whole)


def test_a_directory_elsewhere_works_with_a_warning(
    base: Base, in_tmp: Path, tmp_path_factory: pytest.TempPathFactory, capsys: pytest.CaptureFixture[str]
) -> None:
    elsewhere = tmp_path_factory.mktemp("else") / "tiny"
    shutil.move(local(in_tmp, base), elsewhere)
    write_params(in_tmp, source="local", path=str(elsewhere))
    assert run_base() == 0
    assert f"base: {elsewhere} is outside models/import, where DVC would see it change" in capsys.readouterr().err
    assert read_base_record(stage.MODEL)[1] == elsewhere


def test_a_directory_that_is_not_there_is_one_line(in_tmp: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_params(in_tmp, source="local", path="没有")
    assert "params.yaml: base.path: no such directory, got 没有; put the model under models/import/" in refused(capsys, 2)
    write_params(in_tmp, source="local")
    assert "params.yaml: base.path: source local needs a directory; name one under models/import/" in refused(capsys, 2)


def edit_config(target: Path, **values: Any) -> None:
    config = json.loads((target / "config.json").read_text(encoding="utf-8"))
    (target / "config.json").write_text(json.dumps({**config, **values}), encoding="utf-8")


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (lambda d: (d / "config.json").unlink(), "config.json is missing"),
        (lambda d: (d / "config.json").write_text("{"), "config.json: not valid JSON"),
        (lambda d: edit_config(d, auto_map={"AutoModel": "x.Y"}), "the model wants to run its own code"),
        (lambda d: edit_config(d, model_type="unheard_of"), "cannot read the configuration"),
        (lambda d: edit_config(d, vocab_size=100), "the tokenizer has more tokens than the model's vocab_size 100, got 427"),
        (lambda d: edit_config(d, quantization_config={"quant_method": "awq"}), "the weights are quantised already, got awq"),
        (lambda d: (d / "model.safetensors").rename(d / "pytorch_model.bin"), "no safetensors weights in hub layout"),
        (lambda d: (d / "model.safetensors").write_text("version https://git-lfs"), "a pointer to one; fetch the real file"),
        (lambda d: (d / "tokenizer.json").unlink(), "neither tokenizer.json nor vocab.json with merges.txt"),
        (lambda d: (d / "tokenizer.json").write_text("{}"), "tokenizer.json: not a tokenizer file"),
        (lambda d: (d / "tokenizer_config.json").unlink(), "the tokenizer's config is missing"),
    ],
)
def test_a_broken_directory_is_one_line(base: Base, in_tmp: Path, capsys: pytest.CaptureFixture[str], fault: Any, message: str) -> None:
    fault(local(in_tmp, base))
    assert message in refused(capsys, 2)


def test_a_tokenizer_of_vocab_and_merges_alone_is_built(base: Base, in_tmp: Path) -> None:
    target = local(in_tmp, base)
    content = json.loads((target / "tokenizer.json").read_text(encoding="utf-8"))
    (target / "vocab.json").write_text(json.dumps(content["model"]["vocab"], ensure_ascii=False), encoding="utf-8")
    merges = (" ".join(pair) if isinstance(pair, list) else pair for pair in content["model"]["merges"])
    (target / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n", encoding="utf-8")
    config = json.loads((target / "tokenizer_config.json").read_text(encoding="utf-8"))
    added = {str(token.pop("id")): token for token in content["added_tokens"]}
    (target / "tokenizer_config.json").write_text(json.dumps({**config, "added_tokens_decoder": added}), encoding="utf-8")
    (target / "tokenizer.json").unlink()
    assert run_base() == 0
    for text in ("患者男，28岁，chest pain 三天", "Start amoxicillin.\n\n<think>"):
        assert load_tokenizer(stage.TOKENIZER).encode(text) == base.tok.encode(text)


def test_an_r1_like_directory_keeps_its_chinese(base: Base, in_tmp: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = local(in_tmp, base)
    write_r1_tokenizer(target)
    if code := run_base():  # some releases of transformers lose it (transformers#45488): then nothing is trained on what is left
        assert code == 2
        assert "the tokenizer check failed" in capsys.readouterr().err
        return
    tok = load_tokenizer(stage.TOKENIZER)
    assert tok.eos_token == "<｜end▁of▁sentence｜>"
    assert tok.decode(tok.encode("28岁程序员 chest pain")) == "28岁程序员 chest pain"


def test_a_failed_run_keeps_the_old_base(base: Base, in_tmp: Path) -> None:
    target = local(in_tmp, base)
    assert run_base() == 0
    old = outputs(in_tmp)
    (target / "config.json").write_text("{", encoding="utf-8")
    assert run_base() == 2
    assert outputs(in_tmp) == old
