"""The exported directory: the fine-tune to the last logit, complete, described, and there only when it is right."""

from __future__ import annotations

import itertools
import json
import shutil
import signal
import subprocess
import sys
from collections import namedtuple
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from evaluation_factory import ROWS, write_workspace
from factories import write_r1_tokenizer
from model_factory import tiny_model
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from medcot import export as exporting
from medcot.adapters import Identity, add_adapter, save_tuned
from medcot.cli import main
from medcot.divergence import mean_kl, reference, spread_positions
from medcot.evaluation import weights_hash
from medcot.llamafactory import render_row, write_rows
from medcot.merge import merged_model, stored_dtype
from medcot.model import Hardware, describe_model_dir, load_base, load_tuned, load_weights, read_base_record
from medcot.model_card import render_card
from medcot.template import TEMPLATES, encode, encode_prompt
from medcot.tokenizer import load_tokenizer
from medcot.train_params import TrainParams

CPU = Hardware("cpu", "float32", "sdpa", "a test")
MODEL, TOKENIZER, ADAPTER = Path("models/base/model"), Path("models/base/tokenizer"), Path("models/adapter")
FILES = {
    *("README.md", "export.json", "medcot.json", "config.json", "generation_config.json", "model.safetensors"),
    *("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "Modelfile"),
}
IDS = torch.tensor([[5, 300, 17, 42, 99, 250, 3, 120, 61, 7]])


@pytest.fixture
def project(in_tmp: Path) -> Path:
    """A repository root with a tied base, rows and params, and no fine-tune yet."""
    write_workspace(in_tmp)
    return in_tmp


def untie() -> None:
    """Give the base of the working directory an output layer of its own."""
    model = tiny_model(len(load_tokenizer(TOKENIZER)))
    model.config.tie_word_embeddings = False
    model.lm_head.weight = torch.nn.Parameter(torch.randn_like(model.lm_head.weight) * 0.2)
    model.save_pretrained(MODEL)
    describe_model_dir("demo", MODEL, path=".").write(MODEL)


def identity(template: str = "qwen3") -> Identity:
    return Identity(read_base_record(MODEL)[0].fingerprint, TEMPLATES[template].fingerprint, load_tokenizer(TOKENIZER).fingerprint)


def fine_tune(template: str = "qwen3", **train: Any) -> None:
    """Write an adapter as stage train would, moved as if it had been trained."""
    keep(add_adapter(load_base(MODEL, "none", CPU), TrainParams(**{"lora_rank": 4, **train}), "base"), template)


def foreign(**config: Any) -> None:
    """Write an adapter as another tool would."""
    given = {"r": 4, "target_modules": "all-linear", **config}
    keep(get_peft_model(load_base(MODEL, "none", CPU), LoraConfig(task_type="CAUSAL_LM", **given)))


def keep(model: Any, template: str = "qwen3") -> None:
    torch.manual_seed(1)
    for name, weight in model.named_parameters():
        if "lora_" in name or "modules_to_save" in name:
            weight.data.add_(torch.randn_like(weight) * 0.1)
    shutil.rmtree(ADAPTER, ignore_errors=True)
    save_tuned(model, ADAPTER, identity(template))


@torch.inference_mode()
def logits(model: Any) -> torch.Tensor:
    return model(input_ids=IDS).logits


def exported(out: str = "out") -> Any:
    """The written directory as anybody's transformers loads it."""
    return AutoModelForCausalLM.from_pretrained(out, dtype="auto").eval()


def error_of(capsys: pytest.CaptureFixture[str], *args: str) -> tuple[int, str]:
    code = main(["export", "out", *args])
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    return code, lines[0]


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("target", ["", "embed_tokens", "lm_head", "embed_tokens,lm_head"])
def test_the_float32_export_has_the_logits_of_the_unmerged_adapter(project: Path, tied: bool, target: str) -> None:
    if not tied:
        untie()
    fine_tune(additional_target=target)
    assert main(["export", "out", "--dtype", "float32"]) == 0
    model, before = exported(), load_tuned(MODEL, ADAPTER, "none", CPU)
    torch.testing.assert_close(logits(model), logits(before), atol=1e-4, rtol=1e-5)
    assert not torch.allclose(logits(model), logits(load_base(MODEL, "none", CPU)), atol=0.1)
    assert model.config.tie_word_embeddings is tied
    assert (model.lm_head.weight is model.model.embed_tokens.weight) is tied
    assert ("lm_head.weight" in load_file("out/model.safetensors")) is not tied


@pytest.mark.parametrize(
    ("config", "still_tied"),
    [
        ({"modules_to_save": ["embed_tokens", "lm_head"]}, False),
        ({"modules_to_save": ["embed_tokens"]}, False),
        ({"target_modules": ["q_proj", "embed_tokens"]}, False),
        ({"target_modules": ["q_proj", "v_proj"]}, True),
    ],
    ids=["both-saved", "embedding-saved", "embedding-lora", "neither"],
)
def test_an_adapter_that_pulls_tied_embeddings_apart_unties_the_export(project: Path, config: dict[str, Any], still_tied: bool) -> None:
    foreign(**config)
    assert main(["export", "out", "--dtype", "float32"]) == 0
    model = exported()
    torch.testing.assert_close(logits(model), logits(load_tuned(MODEL, ADAPTER, "none", CPU)), atol=1e-4, rtol=1e-5)
    assert model.config.tie_word_embeddings is still_tied
    assert (model.lm_head.weight is model.model.embed_tokens.weight) is still_tied


@pytest.mark.parametrize("train", [{"use_dora": True}, {"use_rslora": True, "lora_alpha": 3}, {"lora_dropout": 0.5}])
def test_every_kind_of_lora_that_train_makes_merges_right(project: Path, train: dict[str, Any]) -> None:
    fine_tune(**train)
    assert main(["export", "out", "--dtype", "float32"]) == 0
    torch.testing.assert_close(logits(exported()), logits(load_tuned(MODEL, ADAPTER, "none", CPU)), atol=1e-4, rtol=1e-5)


def test_an_adapter_with_a_rank_of_its_own_for_some_layers_merges_right(project: Path) -> None:
    foreign(rank_pattern={"q_proj": 2, "layers.1.mlp.up_proj": 7}, alpha_pattern={"v_proj": 32})
    assert main(["export", "out", "--dtype", "float32"]) == 0
    torch.testing.assert_close(logits(exported()), logits(load_tuned(MODEL, ADAPTER, "none", CPU)), atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("stored", ["float32", "bfloat16", "float16"])
def test_a_merged_weight_is_rounded_once(project: Path, stored: str) -> None:
    """W + scaling·B·A in float32, then bfloat16, bit for bit; peft alone would round the update first."""
    tiny_model(len(load_tokenizer(TOKENIZER))).to(getattr(torch, stored)).save_pretrained(MODEL)
    describe_model_dir("demo", MODEL, path=".").write(MODEL)
    assert stored_dtype(MODEL) == stored
    fine_tune()
    merged = merged_model(MODEL, ADAPTER, "bfloat16")
    adapter, base = load_file(ADAPTER / "adapter_model.safetensors"), load_file(MODEL / "model.safetensors")
    name = "model.layers.1.mlp.down_proj"
    down, up = (adapter[f"base_model.model.{name}.lora_{part}.weight"].float() for part in "AB")
    wanted = (base[f"{name}.weight"].float() + up @ down * (16 / 4)).to(torch.bfloat16)
    assert torch.equal(merged.state_dict()[f"{name}.weight"], wanted)
    assert torch.equal(merged.state_dict()["model.norm.weight"], base["model.norm.weight"].to(torch.bfloat16))
    assert {weight.dtype for weight in merged.parameters()} == {torch.bfloat16}


def test_a_base_of_mixed_precision_is_merged_in_float32(project: Path) -> None:
    tensors = load_file(MODEL / "model.safetensors")
    tensors["model.norm.weight"] = tensors["model.norm.weight"].to(torch.bfloat16)
    save_file(tensors, MODEL / "model.safetensors")
    assert stored_dtype(MODEL) == "float32"


def test_the_merge_is_into_the_dense_base_though_training_was_on_4_bit(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_workspace(project, quantization="nf4")
    fine_tune()
    assert main(["export", "out", "--dtype", "float32"]) == 0
    torch.testing.assert_close(logits(exported()), logits(load_tuned(MODEL, ADAPTER, "none", CPU)), atol=1e-4, rtol=1e-5)
    kl = json.loads(Path("out/export.json").read_text("utf-8"))["kl"]
    assert 0 <= kl["adapter_merged"] < 1e-9
    assert kl["trained_merged"] > 1e-3
    printed = capsys.readouterr().out
    assert f"KL(4-bit‖merged)     {kl['trained_merged']:.3g} nats" in printed
    assert f"KL(adapter‖merged)   {kl['adapter_merged']:.3g} nats" in printed


def test_without_quantisation_there_is_one_divergence_to_tell(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fine_tune()
    assert main(["export", "out"]) == 0
    assert "4-bit" not in capsys.readouterr().out
    assert "4-bit" not in Path("out/README.md").read_text("utf-8")
    assert set(json.loads(Path("out/export.json").read_text("utf-8"))["kl"]) == {
        *("adapter_merged", "num_prompts", "num_tokens", "computed_in")
    }


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_a_full_fine_tune_is_cast_and_nothing_else(project: Path, dtype: str) -> None:
    model = load_base(MODEL, "none", CPU)
    model.model.norm.weight.data.mul_(1.2345)
    save_tuned(model, ADAPTER, identity())
    assert main(["export", "out", "--dtype", dtype]) == 0
    written, ours = load_file("out/model.safetensors"), load_file(ADAPTER / "model.safetensors")
    assert written.keys() == ours.keys()
    assert all(torch.equal(written[name], ours[name].to(getattr(torch, dtype))) for name in ours)


def test_the_directory_is_complete_and_names_no_place_of_this_machine(project: Path) -> None:
    fine_tune()
    assert main(["export", "deep/er/out"]) == 0
    out = Path("deep/er/out")
    assert {path.name for path in out.iterdir()} == FILES
    assert [path.name for path in out.parent.iterdir()] == ["out"]
    for path in out.iterdir():
        if path.suffix != ".safetensors":
            assert str(project) not in path.read_text("utf-8"), path
    config = json.loads((out / "config.json").read_text("utf-8"))
    assert (config["dtype"], config["architectures"]) == ("bfloat16", ["Qwen3ForCausalLM"])
    assert "quantization_config" not in config
    assert json.loads((out / "medcot.json").read_text("utf-8")) == json.loads((ADAPTER / "medcot.json").read_text("utf-8"))


def test_equal_inputs_give_equal_bytes(project: Path) -> None:
    fine_tune()
    assert main(["export", "a/out"]) == main(["export", "b/out"]) == 0
    assert {name: (Path("a/out") / name).read_bytes() == (Path("b/out") / name).read_bytes() for name in FILES} == dict.fromkeys(
        FILES, True
    )


def test_a_large_model_is_written_in_shards_with_an_index(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exporting, "SHARD_SIZE", "100KB")
    fine_tune()
    assert main(["export", "out", "--dtype", "float32"]) == 0
    index = json.loads(Path("out/model.safetensors.index.json").read_text("utf-8"))
    assert len(set(index["weight_map"].values())) > 1
    torch.testing.assert_close(logits(exported()), logits(load_tuned(MODEL, ADAPTER, "none", CPU)), atol=1e-4, rtol=1e-5)


def test_generation_stops_where_the_probes_stop_and_is_greedy_by_default(project: Path) -> None:
    (MODEL / "generation_config.json").unlink()
    describe_model_dir("demo", MODEL, path=".").write(MODEL)
    fine_tune()
    assert main(["export", "out"]) == 0
    tok = load_tokenizer(TOKENIZER)
    config = exported().generation_config
    assert config.eos_token_id == [tok.eos_id]
    assert config.do_sample is False
    assert config.pad_token_id == tok.eos_id


def test_the_base_s_own_sampling_is_kept_and_its_stop_tokens_replaced(project: Path) -> None:
    sampling = {"do_sample": True, "temperature": 0.6, "top_p": 0.95, "eos_token_id": 3, "_from_model_config": True}
    (MODEL / "generation_config.json").write_text(json.dumps(sampling), encoding="utf-8")
    describe_model_dir("demo", MODEL, path=".").write(MODEL)
    fine_tune()
    assert main(["export", "out"]) == 0
    config = json.loads(Path("out/generation_config.json").read_text("utf-8"))
    assert (config["do_sample"], config["temperature"], config["top_p"]) == (True, 0.6, 0.95)
    assert config["eos_token_id"] == [load_tokenizer(TOKENIZER).eos_id]
    assert "_from_model_config" not in config
    assert "PARAMETER temperature 0.6" in Path("out/Modelfile").read_text("utf-8")


@pytest.mark.parametrize("system", ["", '你是临床医生。 {{ no }} "x"'])
def test_the_exported_tokenizer_renders_the_prompt_of_training(project: Path, system: str) -> None:
    params = yaml.safe_load(Path("params.yaml").read_text("utf-8"))
    params["model"]["system"] = system
    Path("params.yaml").write_text(yaml.safe_dump(params, allow_unicode=True), encoding="utf-8")
    fine_tune()
    assert main(["export", "out"]) == 0
    tokenizer, ours = AutoTokenizer.from_pretrained("out"), load_tokenizer(TOKENIZER)
    for row in ROWS:
        messages = [{"role": "user", "content": row.question}]
        ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
        assert ids == encode_prompt(ours, TEMPLATES["qwen3"], row.question, system)


def test_an_r1_model_is_exported_with_its_prefill_and_one_bos(in_tmp: Path) -> None:
    write_workspace(in_tmp)
    template = TEMPLATES["deepseekr1"]
    params = yaml.safe_load(Path("params.yaml").read_text("utf-8"))
    Path("params.yaml").write_text(
        yaml.safe_dump({**params, "model": {"quantization": "none", "template": "deepseekr1"}}), encoding="utf-8"
    )
    shutil.rmtree(TOKENIZER)
    write_r1_tokenizer(TOKENIZER)
    write_rows(Path("data/llamafactory/val.json"), (render_row(row, template, "", "alpaca") for row in ROWS))
    fine_tune("deepseekr1")
    assert main(["export", "out"]) == 0
    tokenizer, ours = AutoTokenizer.from_pretrained("out"), load_tokenizer(TOKENIZER)
    text = tokenizer.apply_chat_template([{"role": "user", "content": "头痛？"}], add_generation_prompt=True, tokenize=False)
    assert text == "<｜begin▁of▁sentence｜><｜User｜>头痛？<｜Assistant｜><think>\n"
    assert list(tokenizer(text, add_special_tokens=False)["input_ids"]) == encode_prompt(ours, template, "头痛？")
    assert json.loads(Path("out/generation_config.json").read_text("utf-8"))["eos_token_id"] == [ours.eos_id]


def test_the_card_tells_origin_checks_and_limits(project: Path) -> None:
    fine_tune()
    values = {"base": {"nll": 3.5}, "tuned": {"nll": 3.25}, "delta": {"nll": -0.25, "ci_low": -0.3, "ci_high": -0.2}}
    metrics = {"adapter_hash": weights_hash(ADAPTER), "num_rows": 4, "split": "val", "precision": "none float32 sdpa cpu", "all": values}
    Path("metrics").mkdir()
    Path("metrics/evaluate.json").write_text(json.dumps(metrics), encoding="utf-8")
    assert main(["export", "out"]) == 0
    card = Path("out/README.md").read_text("utf-8")
    for told in ("Research only", "仅供研究", "# out", identity().base, weights_hash(ADAPTER), "| prompt template | qwen3 |"):
        assert told in card
    assert "| all | 3.5000 | 3.2500 | -0.2500 | -0.3000 to -0.2000 |" in card
    assert yaml.safe_load(card.split("---")[1]) == {
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["medical", "reasoning"],
    }


def test_figures_of_another_adapter_stay_out_of_the_card(project: Path, caplog: pytest.LogCaptureFixture) -> None:
    fine_tune()
    Path("metrics").mkdir()
    Path("metrics/evaluate.json").write_text(json.dumps({"adapter_hash": "0" * 16}), encoding="utf-8")
    assert main(["export", "out"]) == 0
    assert "## Evaluation" not in Path("out/README.md").read_text("utf-8")
    Path("metrics/evaluate.json").write_text("{", encoding="utf-8")
    assert main(["export", "out2"]) == 2
    assert not Path("out2").exists()


@pytest.mark.parametrize("licence", ["mit, cc0-1.0", "mit\n---\n# <script>", "a: b", "许可"])
def test_a_licence_cannot_break_the_metadata_of_the_card(licence: str) -> None:
    facts = {
        "base": {"licence": licence},
        "fingerprints": {},
        "kl": {"num_tokens": 1, "num_prompts": 1, "computed_in": "float32", "adapter_merged": 0},
    }
    facts |= dict.fromkeys(("adapter_hash", "template", "system", "trained_on", "dtype"), "x")
    front = render_card("m", facts, None).split("\n---\n")[0]
    assert yaml.safe_load(front.removeprefix("---\n"))["license"] == licence


def test_a_base_from_a_hub_is_named_with_its_licence() -> None:
    record = {"source": "hub", "repo": "acme/Base-7B", "commit": "c" * 40, "licence": "apache-2.0", "path": "", "num_parameters": 7}
    base = exporting.describe_base(record)
    assert base == {key: value for key, value in record.items() if key != "path"}
    facts = {
        "base": base,
        "fingerprints": {"base": "0" * 16},
        "adapter_hash": "1" * 16,
        "template": "qwen3",
        "system": "a | b\nc",
        "trained_on": "none",
        "dtype": "bfloat16",
        "kl": {"adapter_merged": 1e-5, "num_prompts": 1, "num_tokens": 2, "computed_in": "float32"},
    }
    card = exporting.render_card("医学", facts, None)
    assert yaml.safe_load(card.split("---")[1])["license"] == "apache-2.0"
    assert yaml.safe_load(card.split("---")[1])["base_model"] == "acme/Base-7B"
    assert "| system prompt | a &#124; b c |" in card
    assert exporting.describe_base({"source": "local", "path": "/somewhere/else/Base-7B", "num_parameters": 7}) == {
        "source": "local",
        "num_parameters": 7,
        "name": "Base-7B",
    }


def test_a_merge_that_is_too_far_from_its_adapter_is_not_written(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fine_tune()
    code, line = error_of(capsys, "--max-kl", "1e-9")
    assert code == 4
    assert "KL(adapter‖merged) per token is above 1e-09 nats, got " in line
    assert "nothing was written" in line
    assert sorted(path.name for path in project.iterdir()) == [".medcot", "data", "models", "params.yaml"]


def test_the_default_limit_catches_a_wrong_merge(
    project: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The base without its adapter, and the adapter merged twice."""
    fine_tune()
    monkeypatch.setattr(exporting, "merged_model", lambda weights, adapter, dtype: load_weights(weights, "none", CPU))
    assert error_of(capsys)[0] == 4

    def twice(weights: Path, adapter: Path, dtype: str) -> Any:
        once = merged_model(weights, adapter, "float32")
        return PeftModel.from_pretrained(once, adapter).merge_and_unload()

    monkeypatch.setattr(exporting, "merged_model", twice)
    assert error_of(capsys)[0] == 4
    assert not Path("out").exists()


def test_weights_that_float16_does_not_hold_are_refused(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fine_tune()
    tensors = load_file(ADAPTER / "adapter_model.safetensors")
    tensors["base_model.model.model.layers.0.mlp.up_proj.lora_B.weight"] *= 1e7
    save_file(tensors, ADAPTER / "adapter_model.safetensors", {"format": "pt"})
    code, line = error_of(capsys, "--dtype", "float16")
    assert (code, "got nan" in line) == (4, True)


def test_divergence_is_the_closed_form(project: Path) -> None:
    fine_tune()
    tok, template = load_tokenizer(TOKENIZER), TEMPLATES["qwen3"]
    rows = [encode(tok, template, row.question, row.reasoning, row.answer) for row in ROWS]
    base, tuned = load_base(MODEL, "none", CPU), load_tuned(MODEL, ADAPTER, "none", CPU)
    assert mean_kl(base, rows, reference(base, rows, 8), 8) == 0
    total = count = 0
    for row in rows:
        with torch.inference_mode():
            p, q = (torch.log_softmax(m(input_ids=torch.tensor([row.input_ids])).logits[0].double(), -1) for m in (tuned, base))
        for i in range(row.prompt_len - 1, len(row.input_ids) - 1):
            total, count = total + float((p[i].exp() * (p[i] - q[i])).sum()), count + 1
    assert mean_kl(tuned, rows, reference(base, rows, 10_000), 10_000) == pytest.approx(total / count, rel=1e-5)


def test_the_comparison_is_in_float32_wherever_that_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = Hardware("cuda", "bfloat16", "varlen", "a test")
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (24 << 30, 24 << 30))
    assert exporting.exact_hardware(gpu, 1_700_000_000) == Hardware("cuda", "float32", "sdpa", "a test")
    assert exporting.exact_hardware(gpu, 7_600_000_000) == gpu
    assert exporting.exact_hardware(CPU, 7_600_000_000) == CPU


def test_positions_are_spread_over_the_whole_response(project: Path) -> None:
    row = encode(load_tokenizer(TOKENIZER), TEMPLATES["qwen3"], "头痛？", "测血压。" * 30, "休息。rest" * 9)
    first, last = row.prompt_len - 1, len(row.input_ids) - 2
    assert spread_positions(row, 10_000) == list(range(first, last + 1))
    few = spread_positions(row, 7)
    assert (len(few), few[0]) == (7, first)
    assert len({b - a for a, b in itertools.pairwise(few)}) <= 2
    assert last - few[-1] <= (last - first) / 7 + 1


def test_without_a_fine_tune_there_is_nothing_to_export(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert error_of(capsys) == (2, "error: models/adapter: there is no fine-tune to export; run `dvc repro train`")


def test_a_fine_tune_of_another_base_is_refused(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fine_tune()
    untie()
    code, line = error_of(capsys)
    assert code == 2
    assert "models/adapter/medcot.json: the adapter was made on another base" in line
    assert not Path("out").exists()


def test_a_target_that_is_not_ours_is_never_replaced(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fine_tune()
    Path("out").mkdir()
    Path("out/论文.txt").write_text("precious", encoding="utf-8")
    for args in ((), ("--force",)):
        assert error_of(capsys, *args) == (2, "error: out: the directory is not empty, and no earlier export; name another one")
    assert [path.name for path in Path("out").iterdir()] == ["论文.txt"]
    shutil.rmtree("out")
    Path("out").write_text("a file", encoding="utf-8")
    assert error_of(capsys) == (2, "error: out: not a directory; name another target")


def test_a_link_to_nowhere_and_a_way_back_are_no_targets(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fine_tune()
    Path("link").symlink_to("nowhere")
    for out in ("link", "new/.."):
        assert main(["export", out]) == 2
        assert capsys.readouterr().err.splitlines()[-1] == f"error: {out}: not a directory; name another target"
    assert not Path("new").exists()


def test_a_damaged_adapter_is_one_line(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fine_tune()
    weights = ADAPTER / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    code, line = error_of(capsys)
    assert (code, line.startswith("error: models/adapter: the adapter cannot be merged, got Error while deserializing")) == (2, True)


def test_metrics_that_are_no_mapping_are_refused(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fine_tune()
    Path("metrics").mkdir(exist_ok=True)
    Path("metrics/evaluate.json").write_text("5", encoding="utf-8")
    code, line = error_of(capsys)
    assert (code, line.startswith("error: metrics/evaluate.json: not valid JSON, got ")) == (2, True)


def test_sigterm_removes_what_is_half_written(project: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    fine_tune()
    before, handler = sorted(Path().iterdir()), signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(exporting, "measure", lambda *args: signal.raise_signal(signal.SIGTERM))
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # so that a missing handler fails the test instead of ending it
    try:
        assert error_of(capsys)[0] == 143
    finally:
        signal.signal(signal.SIGTERM, handler)
    assert [path for path in sorted(Path().iterdir()) if path.name != ".medcot"] == before


def test_an_earlier_export_is_replaced_only_when_asked_for(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fine_tune()
    Path("out").mkdir()  # an empty one is as good as none
    assert main(["export", "out"]) == 0
    first = Path("out/model.safetensors").read_bytes()
    fine_tune(lora_alpha=3)
    want = "error: out: the directory holds an earlier export; name another one, or add --force to replace it"
    assert error_of(capsys) == (2, want)
    assert Path("out/model.safetensors").read_bytes() == first
    assert error_of(capsys, "--force", "--max-kl", "1e-12")[0] == 4
    assert Path("out/model.safetensors").read_bytes() == first
    Path("out/medcot-bf16.gguf").write_bytes(b"hours of work")
    want = "error: out: --force would delete what no export wrote, got medcot-bf16.gguf; move it elsewhere"
    assert error_of(capsys, "--force") == (2, want)
    Path("out/medcot-bf16.gguf").unlink()
    assert main(["export", "out", "--force"]) == 0
    assert Path("out/model.safetensors").read_bytes() != first
    assert Path("out/model.safetensors").stat().st_mode & 0o777 == 0o644


def test_a_disk_that_is_too_small_is_told_before_anything_is_done(
    project: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    fine_tune()
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**9, 10**9, 100_000))
    code, line = error_of(capsys)
    assert code == 3
    assert "out: the export needs about 0.0 GB, the disk has less, got 0.0 GB; free space, or name a target on another disk" in line
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**9, 0, 10**9))
    assert main(["export", "not/yet/there"]) == 0


@pytest.mark.parametrize(("key", "value"), [("layer_replication", [[0, 1]]), ("alora_invocation_tokens", [1, 2])])
def test_an_adapter_that_no_weight_can_stand_for_is_refused(
    project: Path, capsys: pytest.CaptureFixture[str], key: str, value: list[Any]
) -> None:
    fine_tune()
    path = ADAPTER / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text("utf-8")), key: value}), encoding="utf-8")
    want = f"error: models/adapter/adapter_config.json: such an adapter cannot be merged, got {key}; serve it as an adapter"
    assert error_of(capsys) == (2, want)


def test_an_adapter_that_is_not_finite_is_refused(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fine_tune()
    tensors = load_file(ADAPTER / "adapter_model.safetensors")
    next(iter(tensors.values()))[0] = torch.nan
    save_file(tensors, ADAPTER / "adapter_model.safetensors", {"format": "pt"})
    code, line = error_of(capsys)
    assert (code, "models/adapter: the adapter cannot be merged, got NaNs detected" in line) == (2, True)


def test_outside_a_repository_export_says_so(in_tmp: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert error_of(capsys) == (2, "error: params.yaml: the params file is missing; run from the repository root")


def test_other_verbs_load_no_model_library() -> None:
    code = "import sys, medcot.cli; sys.exit(any(name in sys.modules for name in ('torch', 'transformers', 'peft')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
