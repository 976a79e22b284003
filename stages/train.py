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

from medcot.adapters import Identity, save_tuned
from medcot.chat_template import CHAT_TEMPLATE_FILE, chat_template
from medcot.distributed import from_main, world
from medcot.finetuning import Source, load_trainable
from medcot.generation_metric import GenerationMetric
from medcot.launcher import launch, requested_processes
from medcot.llamafactory import read_rows
from medcot.model import Hardware, choose_hardware, read_base_record
from medcot.model_params import ModelParams
from medcot.outcome import Outcome, summarise, write_logs
from medcot.params import load_section
from medcot.paths import name_path
from medcot.run_identity import check_unchanged, fused_code, loaded_code, open_run, run_parts, shaping_params
from medcot.stage import atomic_dir, run_stage, scratch_dir, write_metrics
from medcot.tasks import Prompting
from medcot.template import check_template, get_template
from medcot.tokenizer import check_transformers_load, install_tokenizer, load_tokenizer
from medcot.trackers import chosen_trackers
from medcot.train_params import TrainParams
from medcot.train_rows import TrainRow
from medcot.training import encode_rows, run, trainer_config

DATA = Path("data/llamafactory")
TOKENIZER = Path("models/base/tokenizer")
MODEL = Path("models/base/model")
IMPORT = Path("models/import_adapter")
ADAPTER = Path("models/adapter")
METRICS = Path("metrics/train.json")
NO_PREFIX = "# A record of this run: LLaMA-Factory has no prefix tuning, and refuses this file.\n"
log = logging.getLogger("medcot")


def identify(
    params: TrainParams, model: ModelParams, hardware: Hardware, identity: Identity, code: dict[str, Path], path: str
) -> dict[str, str]:
    """Everything that shapes this run; its checkpoints are no other's."""
    machine = {"device": hardware.device, "dtype": hardware.dtype, "path": path}
    sections = {"train": shaping_params(params), "model": model.model_dump(), "base": dataclasses.asdict(identity), "machine": machine}
    files = {split: DATA / split for split in ("train.json", "val.json")}
    fused = fused_code() if path == "fused" or hardware.device == "cuda" else {}  # a GPU's plain path takes its linear layers from there
    return run_parts(sections, files, {**code, "stages.train": Path(__file__), **fused})


def write_settings(path: Path, params: TrainParams) -> None:
    """Write the whole LLaMA-Factory configuration of this run: what the data decides, then what the params say."""
    data_half = yaml.safe_load((DATA / "train.yaml").read_text(encoding="utf-8"))
    note = NO_PREFIX if params.finetuning_type == "prefix" else ""
    path.write_text(note + yaml.safe_dump({**data_half, **params.llamafactory_config()}, sort_keys=True), encoding="utf-8")


def describe(outcome: Outcome, rows: Sequence[TrainRow], params: TrainParams) -> dict[str, Any]:
    """Metrics of the stage: what was trained on, and what came of it."""
    num_tokens = sum(label >= 0 for row in rows for label in row.labels)
    return {"num_rows": len(rows), "num_supervised_tokens": num_tokens, "rows_per_step": params.rows_per_step, **summarise(outcome)}


def main() -> None:
    code = loaded_code()  # before the base is found: what fetches it delivers bytes of a recorded hash, and is no part of the run
    params, model_params = load_section("train", TrainParams), load_section("model", ModelParams)
    trains = not params.adapter and params.finetuning_type != "none"
    if trains and world().size == 1 and (processes := requested_processes(params.rows_per_step)) > 1:
        launch("stages.train", processes)
        return
    chosen_trackers()  # refused here, before a large model is loaded
    hardware, template = choose_hardware(), get_template(model_params.template)
    tok, tokenizer = load_tokenizer(TOKENIZER), check_transformers_load(TOKENIZER)
    check_template(tok, template)
    identity = Identity(read_base_record(MODEL)[0].fingerprint, template.fingerprint, tok.fingerprint)
    texts = [read_rows(DATA / f"{split}.json", template) for split in ("train", "val")]
    rows, val = (encode_rows(part, tok, template, model_params.system) for part in texts)
    model = load_trainable(Source(MODEL, IMPORT, identity, tok), params, model_params, hardware, rows)
    outcome = Outcome()
    if trains:
        made_on = (hardware, identity, code, name_path(model, params, hardware)[0])
        parts = identify(params, model_params, *made_on)
        scratch = from_main(lambda: open_run(scratch_dir() / "checkpoints", parts))
        config = trainer_config(params, hardware, len(rows), len(val), scratch)
        asked = texts[1] if params.eval_generate_rows else []
        metric = GenerationMetric(asked, Prompting(tok, template, model_params.system), params) if asked else None
        outcome = run(model, tokenizer, rows, val, params, config, hardware, metric)
    if not world().is_main:
        return
    if trains:

        def look() -> dict[str, str]:
            return identify(load_section("train", TrainParams), load_section("model", ModelParams), *made_on)

        check_unchanged(parts, look, scratch, lambda directory: save_tuned(model, directory, identity))
    with atomic_dir(ADAPTER) as out:
        save_tuned(model, out, identity)
        install_tokenizer(TOKENIZER, out)
        (out / CHAT_TEMPLATE_FILE).write_text(chat_template(template, tok.eos_token, model_params.system), encoding="utf-8")
        write_logs(out, outcome)
        write_settings(out / "llamafactory.yaml", params)
    metrics = describe(outcome, rows, params)
    write_metrics(METRICS, metrics)
    if trains:
        shutil.rmtree(scratch, ignore_errors=True)
    if metrics["num_zero_gradients"]:
        log.warning("train: %d steps had no gradient and taught nothing", metrics["num_zero_gradients"])
    done = f"adapter {params.adapter} imported, not trained" if params.adapter else f"{outcome.steps} steps"
    log.info("train: %d rows, %s%s", len(rows), done, f", val loss {outcome.eval_loss:.4f}" if outcome.eval_loss is not None else "")


if __name__ == "__main__":
    raise SystemExit(run_stage("train", main))
