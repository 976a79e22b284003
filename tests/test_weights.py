"""A model directory in hub layout: its identity, its size, and every fault found before anything is loaded."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from train_factory import Base

from medcot import weights
from medcot.errors import DataError, MachineError
from medcot.weights import INDEX_FILE, check_vocabulary, count_parameters, describe_model_dir, find_weights, read_base_record, sample_sha256


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Base:
    return Base(tmp_path_factory.mktemp("base"))


@pytest.fixture
def model(base: Base, tmp_path: Path) -> Path:
    """A copy of the tiny model that a test may break."""
    return Path(shutil.copytree(base.model_dir, tmp_path / "模型 dir"))


def shard(model: Path) -> list[Path]:
    """Split model.safetensors into two shards under an index, as the hub has large models."""
    tensors = load_file(model / "model.safetensors")
    names = sorted(tensors)
    parts = {"model-00001-of-00002.safetensors": names[:5], "model-00002-of-00002.safetensors": names[5:]}
    for file, part in parts.items():
        save_file({name: tensors[name] for name in part}, model / file, metadata={"format": "pt"})
    index = {"metadata": {}, "weight_map": {name: file for file, part in parts.items() for name in part}}
    (model / INDEX_FILE).write_text(json.dumps(index), encoding="utf-8")
    (model / "model.safetensors").unlink()
    return [model / file for file in parts]


def edit_config(model: Path, **values: Any) -> None:
    config = json.loads((model / "config.json").read_text(encoding="utf-8"))
    (model / "config.json").write_text(json.dumps({**config, **values}), encoding="utf-8")


def refusal(model: Path) -> str:
    with pytest.raises(DataError) as caught:
        describe_model_dir("local", model, path=str(model))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_parameters_are_counted_from_the_headers_alone(model: Path) -> None:
    expected = sum(tensor.numel() for tensor in load_file(model / "model.safetensors").values())
    assert describe_model_dir("local", model, path=".").num_parameters == expected
    assert describe_model_dir("local", model, path=".").num_parameters == count_parameters(shard(model))


def test_shards_and_index_are_all_part_of_the_identity(model: Path) -> None:
    whole = describe_model_dir("local", model, path=".")
    assert set(whole.files) == {"config.json", "generation_config.json", "model.safetensors"}
    shards = shard(model)
    record = describe_model_dir("local", model, path=".")
    assert set(record.files) == {"config.json", "generation_config.json", INDEX_FILE, *(path.name for path in shards)}
    assert record.fingerprint != whole.fingerprint
    assert set(record.samples) == set(record.files)


def test_files_that_transformers_would_not_load_do_not_count(model: Path) -> None:
    before = describe_model_dir("local", model, path=".")
    save_file({"extra": torch.ones(1000)}, model / "consolidated.safetensors")
    assert describe_model_dir("local", model, path=".") == before


def test_the_fingerprint_is_that_of_the_content_and_not_of_the_place(model: Path, tmp_path: Path) -> None:
    moved = Path(shutil.copytree(model, tmp_path / "elsewhere"))
    assert describe_model_dir("local", moved, path="x").fingerprint == describe_model_dir("local", model, path="y").fingerprint
    edit_config(moved, rope_theta=5e5)
    assert describe_model_dir("local", moved, path="x").fingerprint != describe_model_dir("local", model, path="y").fingerprint


def test_what_is_no_model_directory_is_refused(model: Path) -> None:
    (model / "config.json").unlink()
    assert "config.json: not a model directory: config.json is missing; copy the whole repository" in refusal(model)


@pytest.mark.parametrize(("text", "cause"), [("{", "not valid JSON"), ("[1]", "expected a JSON object"), ("\udcff", "not valid JSON")])
def test_a_broken_configuration_is_refused(model: Path, text: str, cause: str) -> None:
    (model / "config.json").write_text(text, encoding="utf-8", errors="surrogateescape")
    assert cause in refusal(model)


def test_remote_code_is_refused(model: Path) -> None:
    edit_config(model, auto_map={"AutoModelForCausalLM": "modeling_x.X"})
    assert "the model wants to run its own code, got auto_map; use a model whose class transformers has" in refusal(model)


def test_weights_that_are_quantised_already_are_refused(model: Path) -> None:
    edit_config(model, quantization_config={"quant_method": "gptq"})
    assert "the weights are quantised already, got gptq; use the original weights" in refusal(model)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pth", "model.gguf", "adapter.safetensors"])
def test_weights_in_another_form_are_refused_by_name(model: Path, name: str) -> None:
    (model / "model.safetensors").rename(model / name)
    message = refusal(model)
    assert "no safetensors weights in hub layout" in message
    assert name in message
    assert "a pickle can run code" in message


def test_a_missing_shard_is_refused_by_name(model: Path) -> None:
    shard(model)[1].unlink()
    assert "1 of 2 weight files are missing, got model-00002-of-00002.safetensors; copy them too" in refusal(model)


@pytest.mark.parametrize("content", ["{}", '{"weight_map": {}}', '{"weight_map": [1]}'])
def test_an_index_that_names_nothing_is_refused(model: Path, content: str) -> None:
    shard(model)
    (model / INDEX_FILE).write_text(content, encoding="utf-8")
    assert "no weight_map" in refusal(model)


def test_a_git_lfs_pointer_is_told_from_weights(model: Path) -> None:
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:" + "0" * 64 + "\nsize 12345\n"
    (model / "model.safetensors").write_text(pointer, encoding="utf-8")
    assert "not a safetensors file, or a pointer to one; fetch the real file (git lfs pull)" in refusal(model)
    (model / "model.safetensors").write_bytes(b"")
    assert "not a safetensors file" in refusal(model)


def test_a_file_that_was_cut_short_is_refused(model: Path) -> None:
    path = model / "model.safetensors"
    size = path.stat().st_size
    path.write_bytes(path.read_bytes()[:-100])
    assert f"the file should be {size} bytes long, got {size - 100}" in refusal(model)
    path.write_bytes((2).to_bytes(8, "little") + b"[]")
    assert "the header is not one of safetensors" in refusal(model)


def test_a_tokenizer_with_more_tokens_than_embeddings_is_refused(model: Path) -> None:
    check_vocabulary(model, 427)
    with pytest.raises(DataError, match="the tokenizer has more tokens than the model's vocab_size 427, got 428"):
        check_vocabulary(model, 428)


# ---- the record, and whether the weights are still the ones it was written for


def test_a_record_comes_back_as_it_was_written(model: Path) -> None:
    record, found = read_base_record(model)
    assert record == describe_model_dir("demo", model, path=".")
    assert found == model
    assert find_weights(found) == [model / "model.safetensors"]


def test_a_missing_or_foreign_record_is_one_line(model: Path) -> None:
    content = json.loads((model / "base.json").read_text(encoding="utf-8"))
    (model / "base.json").write_text('{"source": "demo"}', encoding="utf-8")
    with pytest.raises(DataError, match=r"not a record of this version, got .*missing 4 required"):
        read_base_record(model)
    for wrong in ({"samples": [1]}, {"samples": None}, {"files": {"a": 1}}, {"num_parameters": "many"}, {"path": 5}):
        (model / "base.json").write_text(json.dumps(content | wrong), encoding="utf-8")
        with pytest.raises(DataError, match=f"not a record of this version, got {next(iter(wrong))} is "):
            read_base_record(model)
    for wrong in ({"platform": "x", "commit": "0" * 40}, {"platform": "huggingface", "commit": "../.."}, {}):
        (model / "base.json").write_text(json.dumps(content | {"source": "hub"} | wrong), encoding="utf-8")
        with pytest.raises(DataError, match=r"not a record of a model on a hub, got .*; run `dvc repro -f base`"):
            read_base_record(model)
    (model / "base.json").write_bytes(b"\xff{}")
    with pytest.raises(DataError, match="not a record of this version"):
        read_base_record(model)
    (model / "base.json").unlink()
    with pytest.raises(DataError, match="the base model is missing; run `dvc repro base`"):
        read_base_record(model)


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_weights_that_changed_or_went_since_stage_base_are_not_used(model: Path, name: str) -> None:
    content = (model / name).read_bytes()
    (model / name).write_bytes(content[:-2] + b" }" if name == "config.json" else content[:-1] + b"\x7f")
    with pytest.raises(DataError, match="the file changed since stage base recorded it; put it back, or run `dvc repro -f base`"):
        read_base_record(model)
    (model / name).unlink()
    with pytest.raises(MachineError, match="a file of the base model is missing; put it back"):
        read_base_record(model)


def test_other_weights_of_the_same_shapes_show_in_a_sample_of_a_large_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "SAMPLE_WHOLE", 1000)
    monkeypatch.setattr(weights, "SAMPLE_HEAD", 200)
    monkeypatch.setattr(weights, "SAMPLE_BLOCK", 10)
    path = tmp_path / "x.safetensors"
    for size in (999, 1001, 50_000):
        zeros = bytearray(size)
        path.write_bytes(zeros)
        sample = sample_sha256(path)
        assert sample_sha256(path) == sample
        for position in (0, 150, size - 1):  # head and tail
            path.write_bytes(zeros[:position] + b"\x01" + zeros[position + 1 :])
            assert sample_sha256(path) != sample
        path.write_bytes(bytes(size // 2) + b"\x01" * (size - size // 2))  # a model whose second half was trained
        assert sample_sha256(path) != sample
        path.write_bytes(bytes(size + 1))
        assert sample_sha256(path) != sample
