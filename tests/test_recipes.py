"""The recipes: complete params files with the numbers of the systems they rebuild, each run from data to comparison, shortened."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import ROOT
from evaluation_factory import FEW, MAX_ITEMS

from medcot.dedup_params import DedupParams
from medcot.evaluate_params import EvaluateParams
from medcot.model_params import ModelParams
from medcot.params import Params, load_section, parse_section, read_params
from medcot.stage import run_stage
from medcot.sweep import check_params, read_sweep
from medcot.train_params import TrainParams
from medcot.verdict_params import VerdictParams
from stages import base, convert, curation, decontaminate, dedup, download, evaluate, evaluate_base, normalize, train, verdict

RECIPES = ("eight_versions", "guide_7b", "medcot_7b", "qwen3_1_7b", "deepdoctor_8b")
SWEEPS = ("eight_versions", "demo", "guide_types")
CLASSES: dict[str, type[Params]] = {
    "download": download.DownloadParams,
    "normalize": normalize.NormalizeParams,
    "dedup": DedupParams,
    "decontaminate": decontaminate.DecontaminateParams,
    "model": ModelParams,
    "base": base.BaseParams,
    "convert": convert.ConvertParams,
    "curation": curation.CurationParams,
    "evaluate": EvaluateParams,
    "verdict": VerdictParams,
    "train": TrainParams,
}

# What the five systems themselves say, written down apart from the recipes.
R1_QWEN, R1_LLAMA = "deepseek-ai/DeepSeek-R1-Distill-Qwen-", "deepseek-ai/DeepSeek-R1-Distill-Llama-"
ZH, EN = "medical_o1_sft_Chinese.json", "medical_o1_sft.json"
STATED: dict[str, dict[str, Any]] = {
    "eight_versions": {
        **{"base.repo": R1_QWEN + "7B", "download.hub.file": ZH, "download.max_samples": 500, "model.template": "deepseekr1"},
        **{"model.quantization": "nf4", "model.cutoff_len": 8192, "train.lora_rank": 16, "train.lora_alpha": 16},
        **{"train.learning_rate": 3e-6, "train.max_steps": 30, "train.eval_steps": 5},
    },
    "guide_7b": {
        **{"base.repo": R1_QWEN + "7B", "model.template": "deepseekr1", "dedup.row.threshold": 0.9},
        **{"train.learning_rate": 2e-5, "train.adam_beta1": 0.9, "train.adam_beta2": 0.98, "train.adam_epsilon": 1e-8},
        **{"train.weight_decay": 0.01, "train.warmup_steps": 200, "train.lr_scheduler_type": "linear", "train.num_train_epochs": 3.0},
        **{"train.per_device_train_batch_size": 4, "train.gradient_accumulation_steps": 4, "train.max_steps": 0},
        **{"train.eval_steps": 500, "train.save_steps": 500, "train.load_best_model_at_end": True, "train.early_stopping_steps": 5},
        **{"train.lora_dropout": 0.3, "train.label_smoothing_factor": 0.1},
    },
    "medcot_7b": {
        **{"base.repo": R1_QWEN + "7B", "download.hub.file": ZH, "download.max_samples": 0, "model.template": "deepseekr1"},
        **{"model.quantization": "nf4", "model.cutoff_len": 2048, "train.lora_rank": 8, "train.lora_alpha": 16},
        **{"train.lora_dropout": 0.0, "train.lora_target": "all", "train.learning_rate": 1e-4, "train.lr_scheduler_type": "cosine"},
        **{"train.per_device_train_batch_size": 24, "train.gradient_accumulation_steps": 2, "train.warmup_ratio": 0.1},
        **{"train.num_train_epochs": 1.0, "train.max_steps": 0, "train.optim": "adamw_torch"},
    },
    "qwen3_1_7b": {
        **{"base.repo": "Qwen/Qwen3-1.7B", "download.hub.file": ZH, "model.template": "qwen3", "model.quantization": "nf4"},
        **{"train.lora_dropout": 0.2, "train.additional_target": "embed_tokens,lm_head", "train.learning_rate": 2e-4},
        **{"train.lr_scheduler_type": "cosine", "train.warmup_ratio": 0.1, "train.max_steps": 400},
    },
    "deepdoctor_8b": {
        **{"base.repo": R1_LLAMA + "8B", "download.hub.file": EN, "download.max_samples": 500, "model.template": "deepdoctor"},
        **{"model.quantization": "nf4", "model.cutoff_len": 2048, "train.lora_rank": 16, "train.lora_alpha": 16},
        **{"train.lora_dropout": 0.0, "train.lora_target": "q_proj,k_proj,v_proj,o_proj,gate_proj,up_proj,down_proj"},
        **{"train.optim": "adamw_8bit", "train.lr_scheduler_type": "linear"},
        **{"train.warmup_steps": 5, "train.max_steps": 60, "train.per_device_train_batch_size": 2, "train.gradient_accumulation_steps": 4},
        **{"train.learning_rate": 2e-4, "train.weight_decay": 0.01, "train.seed": 3407},
    },
}
# Fine-tunes of the eight versions: base, peak learning rate, steps. Of versions 1, 5 and 6 the original does not say the base.
VERSIONS = {
    "v1-1.5b": ("1.5B", 2e-4, 60),
    "v5-7b": ("7B", 2e-4, 60),
    "v7-7b": ("7B", 3e-6, 30),
    "v6-14b": ("14B", 2e-4, 60),
    "v8-14b": ("14B", 5e-6, 30),
}

# How a recipe is shortened here; everything else, such as optimiser, schedule, dropout and early stopping, is its own.
SHORT: dict[str, Any] = {
    **{"download.source": "sample", "download.max_samples": 40, "normalize.max_bad_ratio": 0.1},
    **{
        "base.source": "demo",
        "base.steps": 12,
        "base.batch_size": 1,
        "evaluate.probe_max_new_tokens": 4,
        "evaluate.generation.max_new_tokens": 4,
    },
    **{f"evaluate.max_items.{name}": most for name, most in FEW.items()},
    **{"evaluate.max_items.train": 4, "evaluate.max_items.choice": 4},
    **{"train.max_steps": 2, "train.per_device_train_batch_size": 2},
}
SHORT_WHERE_SET: dict[str, Any] = {"train.eval_steps": 1, "train.save_steps": 1}
ALL_KINDS = "eight_versions"  # the recipe that is asked something of every kind; what is asked is the same in each


def flatten(values: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, dict):
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def with_values(content: dict[str, Any], values: dict[str, Any]) -> dict[str, Any]:
    """A copy of a params file's content with other values at `section.key`."""
    changed: dict[str, Any] = json.loads(json.dumps(content))
    for dotted, value in values.items():
        *parents, key = dotted.split(".")
        place = changed
        for parent in parents:
            place = place[parent]
        assert key in place, dotted
        place[key] = value
    return changed


def shorten(content: dict[str, Any]) -> dict[str, Any]:
    own = dict(flatten(content))
    return with_values(content, SHORT | {key: value for key, value in SHORT_WHERE_SET.items() if own[key]})


def text_of(name: str) -> str:
    return (ROOT / f"recipes/{name}.yaml").read_text(encoding="utf-8")


@cache
def content_of(name: str) -> dict[str, Any]:
    return read_params(ROOT / f"recipes/{name}.yaml")


def test_every_recipe_and_every_sweep_is_tested_here() -> None:
    assert sorted(path.stem for path in (ROOT / "recipes").glob("*.yaml")) == sorted(RECIPES)
    assert sorted(path.stem for path in (ROOT / "recipes/sweeps").glob("*.yaml")) == sorted(SWEEPS)


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_is_valid_for_every_stage(name: str) -> None:
    path = ROOT / f"recipes/{name}.yaml"
    assert list(read_params(path)) == list(read_params(ROOT / "params.yaml"))
    for section, cls in CLASSES.items():
        load_section(section, cls, path)


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_has_every_key_of_params_yaml_and_no_other(name: str) -> None:
    ours = [key for key, _ in flatten(read_params(ROOT / "params.yaml"))]
    assert [key for key, _ in flatten(content_of(name))] == ours


@pytest.mark.parametrize("path", sorted((ROOT / "recipes").rglob("*.yaml")), ids=lambda path: str(path.relative_to(ROOT)))
def test_recipes_are_in_block_style_without_anchors(path: Path) -> None:
    """`dvc exp run -S` rewrites flow collections, and leaves the aliases of an anchored value behind."""
    text = path.read_text(encoding="utf-8").replace(": []\n", ":\n")  # an empty list has no block form, and stays as it is
    tokens = {type(token).__name__ for token in yaml.scan(text)}
    assert not {"AnchorToken", "AliasToken", "FlowMappingStartToken", "FlowSequenceStartToken"} & tokens


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_says_what_the_original_did_what_was_wrong_and_what_differs(name: str) -> None:
    head = text_of(name).split("\n\n")[0]
    assert head.startswith(f"# {name}: ")
    assert [word for word in ("Original", "Wrong", "Here") if f"\n# {word}   " not in head] == []


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_has_the_numbers_of_its_original(name: str) -> None:
    ours = dict(flatten(content_of(name)))
    assert {key: ours[key] for key in STATED[name]} == STATED[name]


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_pins_its_data_and_its_model_to_commits(name: str) -> None:
    ours = dict(flatten(content_of(name)))
    assert (ours["download.source"], ours["base.source"]) == ("hub", "hub")
    for key in ("download.hub.revision", "base.revision"):
        assert isinstance(ours[key], str)
        assert len(bytes.fromhex(ours[key])) == 20
    if ours["download.hub.file"] == ZH:
        assert ours["download.hub.num_rows"] == 20171
        assert ours["download.hub.sha256"].startswith("e64b1426")


@pytest.mark.parametrize("name", RECIPES)
def test_the_demo_of_a_recipe_is_taught_its_template(name: str) -> None:
    content = content_of(name)
    assert content["base"]["template"] == content["model"]["template"]


def test_the_recipe_of_the_eight_versions_is_one_of_them() -> None:
    ours = dict(flatten(content_of("eight_versions")))
    values = read_sweep(ROOT / "recipes/sweeps/eight_versions.yaml").values("v7-7b")
    assert {key: ours[key] for key in values} == values


def test_the_sweep_holds_the_five_fine_tunes_with_their_numbers() -> None:
    sweep = read_sweep(ROOT / "recipes/sweeps/eight_versions.yaml")
    found = {}
    for name in sweep.runs:
        values = sweep.values(name)
        found[name] = (values["base.repo"], values["train.learning_rate"], values["train.max_steps"])
    assert found == {name: (R1_QWEN + size, rate, steps) for name, (size, rate, steps) in VERSIONS.items()}
    rows = {name: content_of("eight_versions")["train"]["per_device_train_batch_size"] * run[ROWS] for name, run in sweep.runs.items()}
    assert {name for name, count in rows.items() if count == 64} == {"v1-1.5b", "v5-7b", "v6-14b"}
    assert all(count <= 64 for count in rows.values())


ROWS = "train.gradient_accumulation_steps"


@pytest.mark.parametrize("name", SWEEPS)
def test_runs_of_a_sweep_are_grouped_by_base_and_valid_for_every_stage(name: str) -> None:
    sweep = read_sweep(ROOT / f"recipes/sweeps/{name}.yaml")
    params = ROOT / (sweep.params or "params.yaml")
    check_params(sweep.model_copy(update={"params": ""}), name, params)
    bases: list[Any] = []
    for run in sweep.runs:
        content = with_values(read_params(params), sweep.values(run))
        for section, cls in CLASSES.items():
            parse_section(section, content[section], cls)
        if content["base"] not in bases[-1:]:
            bases.append(content["base"])
    assert all(base not in bases[:place] for place, base in enumerate(bases)), "a base stands in two places"


@pytest.mark.parametrize("name", RECIPES)
def test_the_demo_sweep_can_be_run_on_every_recipe(name: str) -> None:
    check_params(read_sweep(ROOT / "recipes/sweeps/demo.yaml"), "demo", ROOT / f"recipes/{name}.yaml")


def test_shortening_leaves_what_chooses_a_code_path() -> None:
    chosen = {"optim", "lr_scheduler_type", "warmup_ratio", "warmup_steps", "lora_dropout", "lora_target", "additional_target", "seed"}
    chosen |= {"label_smoothing_factor", "load_best_model_at_end", "early_stopping_steps", "gradient_checkpointing", "weight_decay"}
    chosen |= {"gradient_accumulation_steps", "lora_rank", "lora_alpha", "learning_rate", "adam_beta2", "max_grad_norm", "finetuning_type"}
    assert not {f"train.{key}" for key in chosen} & (SHORT.keys() | SHORT_WHERE_SET.keys())
    assert not [key for key in SHORT if key.startswith("model.")]


@pytest.fixture(scope="module")
def demo_bases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the demo base of each template is kept, for the recipes that share it."""
    return tmp_path_factory.mktemp("bases")


def run_recipe(content: dict[str, Any], directory: Path, demo_bases: Path) -> None:
    """Run every stage of the pipeline in the working directory, the demo base only where no recipe has trained it."""
    (directory / "params.yaml").write_text(yaml.safe_dump(content, allow_unicode=True), encoding="utf-8")
    (directory / "data").mkdir()
    for name in ("sample", "curation", "suites"):
        (directory / "data" / name).symlink_to(ROOT / "data" / name)
    for stage in (download, normalize, dedup, decontaminate):
        assert run_stage(stage.__name__, stage.main) == 0
    kept = demo_bases / content["base"]["template"]
    if not kept.exists():
        assert run_stage("base", base.main) == 0
        shutil.copytree(directory / "models/base", kept)
    shutil.copytree(kept, directory / "models/base", dirs_exist_ok=True)
    for stage in (convert, train, evaluate_base, evaluate, verdict):
        assert run_stage(stage.__name__, stage.main) == 0


def read_json(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


@pytest.mark.parametrize("name", RECIPES)
def test_a_shortened_recipe_runs_from_the_data_to_the_comparison(name: str, in_tmp: Path, demo_bases: Path) -> None:
    content = shorten(content_of(name))
    if name == ALL_KINDS:
        content["evaluate"]["max_items"] = MAX_ITEMS
    run_recipe(content, in_tmp, demo_bases)
    own, metrics = content["train"], read_json(in_tmp / "metrics/train.json")
    assert metrics["num_steps"] == 2
    assert metrics["rows_per_step"] == 2 * own["gradient_accumulation_steps"]
    assert metrics["moved_rate"] > 0
    settings = yaml.safe_load((in_tmp / "models/adapter/llamafactory.yaml").read_text(encoding="utf-8"))
    kept = ("optim", "lr_scheduler_type", "learning_rate", "weight_decay", "adam_beta2", "lora_dropout", "label_smoothing_factor", "seed")
    assert {key: settings[key] for key in kept} == {key: own[key] for key in kept}
    adapter = read_json(in_tmp / "models/adapter/adapter_config.json")
    assert (adapter["r"], adapter["lora_alpha"], adapter["lora_dropout"]) == (own["lora_rank"], own["lora_alpha"], own["lora_dropout"])
    # The demo's embeddings are tied to its output layer, as Qwen3-1.7B's are: asked for both, peft keeps one.
    whole = {module.split(".")[-1] for module in adapter["modules_to_save"] or ()}
    assert whole == ({"embed_tokens"} if own["additional_target"] else set())
    compared = read_json(in_tmp / "metrics/evaluate.json")
    assert compared["all"]["delta"]["nll"] != 0
    assert compared["all"]["base"]["nll"] > 0
    assert read_json(in_tmp / "data/evaluation/tuned/manifest.json")["precision"].startswith("nf4 ")
    replies = (in_tmp / "data/evaluation/tuned/probes.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(replies) == len(content["evaluate"]["probes"])
