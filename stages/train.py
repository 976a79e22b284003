"""Fine-tune the base: QLoRA on the converted rows, or import a finished adapter, or keep the base as it is.

Reads   data/llamafactory          train.json and val.json           (params: train, model)
        models/base                tokenizer and weights
        models/import_adapter      for train.adapter: finished adapters
Writes  models/adapter             the adapter in peft's layout with its tokenizer, train_log.csv, eval_log.csv, llamafactory.yaml
        metrics/train.json         losses, steps, and the share of adapter elements that moved
Run     dvc repro train     or     python -m stages.train
"""

from __future__ import annotations

import csv
import dataclasses
import logging
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from medcot.adapters import Identity, add_adapter, import_adapter, save_tuned
from medcot.checkpoints import run_fingerprint
from medcot.errors import DataError
from medcot.llamafactory import Row, read_rows
from medcot.model import Hardware, choose_hardware, load_base, read_base_record
from medcot.model_params import ModelParams
from medcot.params import load_section
from medcot.stage import atomic_dir, run_stage, scratch_dir, write_metrics
from medcot.template import encode, get_template
from medcot.tokenizer import ChatTokenizer, check_transformers_load, install_tokenizer, load_tokenizer
from medcot.train_params import TrainParams
from medcot.training import Outcome, TrainRow, run, trainer_config

DATA = Path("data/llamafactory")
TOKENIZER = Path("models/base/tokenizer")
MODEL = Path("models/base/model")
IMPORT = Path("models/import_adapter")
ADAPTER = Path("models/adapter")
METRICS = Path("metrics/train.json")
log = logging.getLogger("medcot")


def encode_rows(rows: Sequence[Row], tok: ChatTokenizer, model: ModelParams) -> list[TrainRow]:
    """Tokenise and label rows exactly as convert audited them."""
    template = get_template(model.template)
    encoded = ((row.id, encode(tok, template, row.question, row.reasoning, row.answer, model.system)) for row in rows)
    return [TrainRow(row_id, item.input_ids, item.labels) for row_id, item in encoded]


def load_model(params: TrainParams, model: ModelParams, hardware: Hardware, identity: Identity) -> Any:
    """Load what will be trained: the frozen base under a fresh or imported adapter, or the base with every weight free."""
    base_name = read_base_record(MODEL)[1].as_posix()
    if params.adapter:
        base = load_base(MODEL, model.quantization, hardware)
        return import_adapter(base, find_adapter(params.adapter), identity, base_name)
    if params.finetuning_type == "full":
        if model.quantization != "none":
            cause = "a full fine-tune needs weights that are not quantised"
            raise DataError("params.yaml: train.finetuning_type", cause, "set model.quantization: none", got=params.finetuning_type)
        # Masters in float32; the hardware's dtype comes in as autocast.
        full = load_base(MODEL, "none", dataclasses.replace(hardware, dtype="float32"))
        return full.requires_grad_(True)
    return add_adapter(load_base(MODEL, model.quantization, hardware), params, base_name)


def find_adapter(name: str) -> Path:
    """Find train.adapter under models/import_adapter/, or where the path says, with a warning that DVC cannot see it change."""
    inside, outside = IMPORT / name, Path(name).expanduser()
    if inside.is_dir():
        return inside
    if not outside.is_dir():
        raise DataError("params.yaml: train.adapter", "no such directory", f"put the adapter under {IMPORT}/", got=name)
    log.warning("train: %s is outside %s, where DVC would see it change", outside, IMPORT)
    return outside


def train_here(model: Any, tokenizer: Any, rows: Sequence[TrainRow], val: Sequence[TrainRow], config: dict[str, Any]) -> Outcome:
    """Train with checkpoints under the run's fingerprint, and drop them once the run is complete."""
    params, hardware = config["train"], config["hardware"]
    code = [Path(str(m.__file__)) for name, m in sorted(sys.modules.items()) if name.startswith("medcot.")]
    files = [DATA / "train.json", DATA / "val.json", TOKENIZER / "tokenizer.json", MODEL / "base.json"]
    shape = {"train": params.model_dump(), "model": config["model"].model_dump(), "dtype": hardware.dtype}
    scratch = scratch_dir() / "checkpoints" / run_fingerprint(params=shape, files=files, code=[Path(__file__), *code])
    trainer = trainer_config(params, hardware, len(rows), len(val), scratch, bar=sys.stderr.isatty())
    outcome = run(model, tokenizer, rows, val, params, trainer)
    shutil.rmtree(scratch, ignore_errors=True)
    return outcome


def summarise(outcome: Outcome, rows: Sequence[TrainRow], params: TrainParams) -> dict[str, Any]:
    """Metrics of a run; losses are mean NLL per supervised token."""
    losses = [entry["loss"] for entry in outcome.log if "loss" in entry]
    tail = losses[-max(1, len(losses) // 10) :]
    metrics: dict[str, Any] = {
        "num_rows": len(rows),
        "num_supervised_tokens": sum(label >= 0 for row in rows for label in row.labels),
        "num_steps": outcome.steps,
        "rows_per_step": params.rows_per_step,
        "num_trainable_parameters": outcome.num_trainable,
        "moved_rate": outcome.moved_rate,
    }
    if losses:
        metrics |= {"train_loss": sum(losses) / len(losses), "final_train_loss": sum(tail) / len(tail)}
    return metrics if outcome.eval_loss is None else {**metrics, "eval_loss": outcome.eval_loss}


def write_log(path: Path, log_history: Sequence[dict[str, float]], columns: Sequence[str]) -> None:
    """Write the logged steps that have the last of the columns, as CSV for `dvc plots`."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows([entry.get(column, "") for column in columns] for entry in log_history if columns[-1] in entry)


def main() -> None:
    params, model_params = load_section("train", TrainParams), load_section("model", ModelParams)
    hardware, template = choose_hardware(), get_template(model_params.template)
    record, _ = read_base_record(MODEL)
    tok = load_tokenizer(TOKENIZER)
    tokenizer = check_transformers_load(TOKENIZER)
    identity = Identity(record.fingerprint, template.fingerprint, tok.fingerprint)
    rows = encode_rows(read_rows(DATA / "train.json", template), tok, model_params)
    val = encode_rows(read_rows(DATA / "val.json", template), tok, model_params)
    with atomic_dir(ADAPTER) as out:
        model = load_model(params, model_params, hardware, identity)
        if params.adapter or params.finetuning_type == "none":
            outcome = Outcome([], 0, None, 0.0, 0)
        else:
            outcome = train_here(model, tokenizer, rows, val, {"train": params, "model": model_params, "hardware": hardware})
        save_tuned(model, out, identity)
        install_tokenizer(TOKENIZER, out)
        write_log(out / "train_log.csv", outcome.log, ("step", "loss", "learning_rate", "grad_norm"))
        write_log(out / "eval_log.csv", outcome.log, ("step", "eval_loss"))
        config = yaml.safe_dump(params.llamafactory_config(), sort_keys=True)
        (out / "llamafactory.yaml").write_text((DATA / "train.yaml").read_text(encoding="utf-8") + config, encoding="utf-8")
    write_metrics(METRICS, summarise(outcome, rows, params))
    log.info("train: %d rows, %d steps, val loss %s", len(rows), outcome.steps, outcome.eval_loss)


if __name__ == "__main__":
    raise SystemExit(run_stage("train", main))
