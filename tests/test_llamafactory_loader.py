"""LLaMA-Factory's own loader on what convert writes: every row arrives, with our labels, token for token.

"It loaded" proves nothing, because that loader drops and rewrites rows with no more than a warning. So each assertion is on ids.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from factories import write_qwen3_tokenizer, write_r1_tokenizer

from medcot.conversion import convert
from medcot.llamafactory import write_dataset
from medcot.model_params import ModelParams
from medcot.records import Record
from medcot.splits import skeleton, split_of
from medcot.template import MASK, TEMPLATES, encode, render_prompt, render_target
from medcot.tokenizer import install_tokenizer, load_tokenizer

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("llamafactory") is None,
    reason="llamafactory is not installed: pip install --no-deps -r requirements-llamafactory.txt",
)
PROBE = Path(__file__).parent / "llamafactory_probe.py"
NOTICE = "You are using reasoning template"
CASES = {
    "qwen3": ("qwen3", "alpaca", ""),
    "qwen3 sharegpt, system": ("qwen3", "sharegpt", "你是一名医生。 Answer briefly."),
    "deepseekr1": ("deepseekr1", "alpaca", ""),
    "deepseekr1 sharegpt, system": ("deepseekr1", "sharegpt", "你是一名医生。 Answer briefly."),
    "deepseekr1 alpaca, system": ("deepseekr1", "alpaca", "请用中文回答。"),
    "deepdoctor": ("deepdoctor", "alpaca", ""),
    "deepdoctor sharegpt, system": ("deepdoctor", "sharegpt", "你是一名医生。"),
}


def records() -> list[Record]:
    """Rows in both languages that a loader may stumble on: braces, quotes, units, numbers alone, multi-modal placeholders."""
    topics = ("胸痛", "发热", "头晕", "咳嗽", "chest pain", "fever", "vertigo", "cough", "皮疹", "rash")
    rows = [
        Record(
            f"{i:016x}",
            "test",
            f"{topic}，首先考虑什么？ What first, option {chr(65 + i)}?",
            f"先看{topic}的起病。\n\n- 步骤 {i}：查 WBC 12.5×10⁹/L。\nThen decide.",
            f'考虑{topic}相关疾病，见 "指南" {{第{i}条}}。',
        )
        for i, topic in enumerate(topics * 3)
    ]
    odd = ("42", "{{content}} 是什么意思？", "图 <image> 与 <video> 见附件", "line\u2028separator", 'a\\nb \\"quoted\\"', "O₂ 88%，😀")
    return rows + [Record(f"{i + 100:016x}", "test", text, f"想：{text}", f"答：{text}") for i, text in enumerate(odd)]


@pytest.fixture(scope="session")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """What the loader made of every case; one process for all, because its import takes seconds."""
    root = tmp_path_factory.mktemp("llamafactory")
    directories = {"qwen3": write_qwen3_tokenizer(root / "qwen3"), "deepseekr1": write_r1_tokenizer(root / "r1")}
    cases = [
        prepare(root / f"case{i}", name, directories.get(template, directories["qwen3"]), template, form, system)
        for i, (name, (template, form, system)) in enumerate(CASES.items())
    ]
    real = Path(os.environ.get("MEDCOT_REAL_DATA", PROBE.parents[2] / "shared" / "data")) / "qwen3_tokenizer"
    if real.is_dir():
        installed = root / "real"
        installed.mkdir()
        install_tokenizer(real, installed)
        case = prepare(root / "real_case", "real qwen3", installed, "qwen3", "alpaca", "")
        cases.append({**case, "tokenizer": str(shutil.copytree(real, root / "as_on_the_hub"))})
    env = {k: v for k, v in os.environ.items() if k in ("PATH", "HOME", "PYTHONPATH", "LANG", "TMPDIR", "VIRTUAL_ENV")}
    env |= {"HF_HOME": str(root / "hf"), "HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "CUDA_VISIBLE_DEVICES": ""}
    out = root / "loaded.json"
    run = subprocess.run(
        [sys.executable, str(PROBE), str(out)], input=json.dumps(cases), text=True, env=env, capture_output=True, check=False, timeout=300
    )
    assert run.returncode == 0, run.stderr[-3000:]
    results = json.loads(out.read_text(encoding="utf-8"))
    return {case["name"]: {**case, **results[case["name"]]} for case in cases}


def prepare(data: Path, name: str, tokenizer: Path, template: str, form: Any, system: str) -> dict[str, Any]:
    """Convert the records into a directory, and say what the loader should find there."""
    tok, kind = load_tokenizer(tokenizer), TEMPLATES[template]
    longest = max(len(encode(tok, kind, r.question, r.reasoning, r.answer, system).input_ids) for r in records())
    model = ModelParams(template=template, system=system, cutoff_len=longest)  # so that nothing has room to spare
    result = convert(records(), [], tok, model, lambda question: split_of(skeleton(question), 42, 0.2, 0.2))
    assert sum(map(len, result.rows.values())) == len(records())
    data.mkdir()
    write_dataset(data, result.rows, tok, model, form, str(data))
    rows = {"train_dataset": result.rows["train"], "eval_dataset": result.rows["val"]}
    expected = {
        part: [
            {
                "ids": (e := encode(tok, kind, r.question, r.reasoning, r.answer, system)).input_ids,
                "labels": e.labels,
                "prompt": render_prompt(kind, r.question, system),
                "target": render_target(r.reasoning, r.answer),
            }
            for r in part_rows
        ]
        for part, part_rows in rows.items()
    }
    own = {"own_len": len(tok), "suffix": tok.encode(kind.llamafactory_suffix), "tok": str(tokenizer), "template": template}
    return {"name": name, "tokenizer": str(tokenizer), "data": str(data), "expected": expected, "form": form, **own}


@pytest.fixture(params=[*CASES, pytest.param("real qwen3", marks=pytest.mark.real_data)])
def case(request: pytest.FixtureRequest, loaded: dict[str, dict[str, Any]]) -> dict[str, Any]:
    if request.param not in loaded:
        pytest.skip("real data is not on this machine")
    return loaded[request.param]


@pytest.mark.parametrize("part", ["train_dataset", "eval_dataset"])
def test_every_row_arrives_with_our_ids_and_labels(case: dict[str, Any], part: str) -> None:
    expected, got = case["expected"][part], case[part]
    assert len(got) == len(expected) > 0
    for ours, theirs in zip(expected, got, strict=True):
        assert theirs["input_ids"] == ours["ids"] + case["suffix"]
        assert theirs["labels"] == ours["labels"] + case["suffix"]


def test_labels_decode_to_the_target_and_end_with_eos(case: dict[str, Any]) -> None:
    tok = load_tokenizer(Path(case["tok"]))
    eos = TEMPLATES[case["template"]].eos or tok.eos_token
    for ours, theirs in zip(case["expected"]["train_dataset"], case["train_dataset"], strict=True):
        supervised = [label for label in theirs["labels"] if label != MASK]
        masked = [i for i, label in zip(theirs["input_ids"], theirs["labels"], strict=True) if label == MASK]
        assert tok.decode(masked) == ours["prompt"]
        assert tok.decode(supervised) == ours["target"] + eos + TEMPLATES[case["template"]].llamafactory_suffix


def test_the_vocabulary_and_eos_stay_what_they_were(case: dict[str, Any]) -> None:
    assert case["len_before"] == case["len_after"] == case["own_len"]
    assert case["eos"] == load_tokenizer(Path(case["tok"])).eos_token


def test_the_loader_warns_of_nothing_but_its_reasoning_template(case: dict[str, Any]) -> None:
    assert [message for message in case["warnings"] if not message.startswith(NOTICE)] == []
    assert bool(case["warnings"]) == (case["template"] != "deepdoctor")


def test_a_generic_json_loader_reads_every_row_and_id(case: dict[str, Any]) -> None:
    written = json.loads((Path(case["data"]) / "train.json").read_text(encoding="utf-8"))
    assert case["generic"] == written
    assert [row["id"] for row in written] == sorted(row["id"] for row in written)
