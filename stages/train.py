"""Fine-tune the base: QLoRA on the converted rows, or import a finished adapter, or keep the base as it is.

Reads   data/llamafactory          train.json and val.json           (params: train, model)
        models/base                tokenizer and weights
        models/import_adapter      for train.adapter: finished adapters
Writes  models/adapter             the adapter in peft's layout, tokenizer, chat template, train_log.csv, eval_log.csv, llamafactory.yaml
        metrics/train.json         losses, steps, and the share of adapter elements that moved
Run     dvc repro train     or     python -m stages.train
"""

from __future__ import annotations

import dataclasses
import logging
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from medcot.adapters import Identity, add_adapter, find_adapter, import_adapter, save_tuned
from medcot.chat_template import CHAT_TEMPLATE_FILE, chat_template
from medcot.checkpoints import loaded_code, run_fingerprint
from medcot.errors import DataError
from medcot.llamafactory import read_rows
from medcot.model import Hardware, choose_hardware, load_base, read_base_record
from medcot.model_params import ModelParams
from medcot.outcome import Outcome, summarise, write_logs
from medcot.params import load_section
from medcot.stage import atomic_dir, run_stage, scratch_dir, write_metrics
from medcot.template import check_template, get_template
from medcot.tokenizer import ChatTokenizer, check_transformers_load, install_tokenizer, load_tokenizer
from medcot.trackers import chosen_trackers
from medcot.train_params import TrainParams
from medcot.trainer import TrainRow
from medcot.training import encode_rows, run, trainer_config

DATA = Path("data/llamafactory")
TOKENIZER = Path("models/base/tokenizer")
MODEL = Path("models/base/model")
IMPORT = Path("models/import_adapter")
ADAPTER = Path("models/adapter")
METRICS = Path("metrics/train.json")
log = logging.getLogger("medcot")


def load_model(params: TrainParams, model: ModelParams, hardware: Hardware, identity: Identity, tok: ChatTokenizer) -> Any:
    """Load what will be trained: the frozen base under a fresh or imported adapter, or the base with every weight free."""
    record, weights = read_base_record(MODEL)
    base_name = record.repo or weights.as_posix()  # a hub's cache lies elsewhere on each machine
    if params.adapter:
        directory = find_adapter(params.adapter, IMPORT)
        base = load_base(MODEL, model.quantization, hardware)
        return import_adapter(base, directory, identity, base_name, tok, get_template(model.template))
    if params.finetuning_type == "full":
        if model.quantization != "none":
            cause = "a full fine-tune needs weights that are not quantised"
            raise DataError("params.yaml: train.finetuning_type", cause, "set model.quantization: none", got=params.finetuning_type)
        # Masters in float32; the hardware's dtype comes in as autocast.
        full = load_base(MODEL, "none", dataclasses.replace(hardware, dtype="float32"))
        return full.requires_grad_(True)
    return add_adapter(load_base(MODEL, model.quantization, hardware), params, base_name)


def checkpoint_dir(params: TrainParams, model: ModelParams, hardware: Hardware, identity: Identity, code: dict[str, Path]) -> Path:
    """Where this very run, and no other, keeps its checkpoints."""
    shape = {"train": params.model_dump(), "model": model.model_dump(), "on": dataclasses.asdict(identity)}
    files = {path.name: path for path in (DATA / "train.json", DATA / "val.json")}
    machine = {"device": hardware.device, "dtype": hardware.dtype}
    return scratch_dir() / "checkpoints" / run_fingerprint(params=shape | machine, files=files, code={**code, "train": Path(__file__)})


def write_settings(path: Path, params: TrainParams) -> None:
    """Write the whole LLaMA-Factory configuration of this run: what the data decides, then what the params say."""
    data_half = yaml.safe_load((DATA / "train.yaml").read_text(encoding="utf-8"))
    path.write_text(yaml.safe_dump({**data_half, **params.llamafactory_config()}, sort_keys=True), encoding="utf-8")


def describe(outcome: Outcome, rows: Sequence[TrainRow], params: TrainParams) -> dict[str, Any]:
    """Metrics of the stage: what was trained on, and what came of it."""
    num_tokens = sum(label >= 0 for row in rows for label in row.labels)
    return {"num_rows": len(rows), "num_supervised_tokens": num_tokens, "rows_per_step": params.rows_per_step, **summarise(outcome)}


def main() -> None:
    code = loaded_code()  # before the base is found: what fetches it delivers bytes of a recorded hash, and is no part of the run
    params, model_params = load_section("train", TrainParams), load_section("model", ModelParams)
    chosen_trackers()  # refused here, before a large model is loaded
    hardware, template = choose_hardware(), get_template(model_params.template)
    tok, tokenizer = load_tokenizer(TOKENIZER), check_transformers_load(TOKENIZER)
    check_template(tok, template)
    identity = Identity(read_base_record(MODEL)[0].fingerprint, template.fingerprint, tok.fingerprint)
    rows, val = (encode_rows(read_rows(DATA / f"{s}.json", template), tok, template, model_params.system) for s in ("train", "val"))
    scratch = checkpoint_dir(params, model_params, hardware, identity, code)
    with atomic_dir(ADAPTER) as out:
        model = load_model(params, model_params, hardware, identity, tok)
        if params.adapter or params.finetuning_type == "none":
            outcome = Outcome()
        else:
            outcome = run(model, tokenizer, rows, val, params, trainer_config(params, hardware, len(rows), len(val), scratch))
        save_tuned(model, out, identity)
        install_tokenizer(TOKENIZER, out)
        (out / CHAT_TEMPLATE_FILE).write_text(chat_template(template, tok.eos_token, model_params.system), encoding="utf-8")
        write_logs(out, outcome)
        write_settings(out / "llamafactory.yaml", params)
    metrics = describe(outcome, rows, params)
    write_metrics(METRICS, metrics)
    shutil.rmtree(scratch, ignore_errors=True)
    if metrics["num_zero_gradients"]:
        log.warning("train: %d steps had no gradient and taught nothing", metrics["num_zero_gradients"])
    done = f"adapter {params.adapter} imported, not trained" if params.adapter else f"{outcome.steps} steps"
    log.info("train: %d rows, %s%s", len(rows), done, f", val loss {outcome.eval_loss:.4f}" if outcome.eval_loss is not None else "")


if __name__ == "__main__":
    raise SystemExit(run_stage("train", main))
