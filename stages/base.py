"""Get the base model and its tokenizer: train the small demo from scratch, or record a local directory or a model on a hub.

Reads   data/sample/base.jsonl, data/sample/phrases.jsonl   the facts and the words the demo is taught   (params: base)
        models/import              for source local: model directories in hub layout; for source hub: its own cache
Writes  models/base/tokenizer      tokenizer.json and its config, proven to load alike in tokenizers and transformers
        models/base/model          base.json: where the weights are, their hashes; the demo's weights beside it
        metrics/base.json          size, vocabulary, and for the demo its training loss
Run     dvc repro base     or     python -m stages.base
"""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from medcot.demo import PAD_TOKEN, DemoTraining, build_model, train_model, train_tokenizer, write_tokenizer
from medcot.hub_model import fetch_model
from medcot.model import read_architecture
from medcot.params import Params, load_section
from medcot.records import read_jsonl
from medcot.stage import atomic_dir, run_stage, write_metrics
from medcot.template import encode, get_template, render_target
from medcot.tokenizer import check_transformers_load, install_tokenizer, load_tokenizer
from medcot.weight_values import check_finite
from medcot.weights import BaseRecord, check_vocabulary, describe_model_dir, find_model

FACTS, PHRASES = Path("data/sample/base.jsonl"), Path("data/sample/phrases.jsonl")
IMPORT = Path("models/import")
TOKENIZER = Path("models/base/tokenizer")
MODEL = Path("models/base/model")
METRICS = Path("metrics/base.json")
log = logging.getLogger("medcot")


class BaseParams(Params):
    """Section `base` of params.yaml."""

    source: Literal["demo", "local", "hub"] = "demo"
    """demo trains a model of .7 M parameters on the CPU; local records a directory in hub layout, hub a model at a commit."""
    path: str = ""
    """For source local: the name of a directory under models/import/ (a path elsewhere works, but DVC cannot see it change)."""
    platform: Literal["huggingface", "modelscope"] = "huggingface"
    """For source hub: which one; its mirror and token come from the environment, never from here."""
    repo: str = ""
    """For source hub: id of the model, owner/name."""
    revision: str = ""
    """For source hub: a commit of 40 hex digits; a branch or tag is resolved to one, recorded, and warned of."""
    template: Literal["qwen3", "deepseekr1", "deepdoctor"] = "qwen3"
    """For source demo: the chat format it is taught; keep it equal to model.template."""
    steps: int = Field(800, ge=3, le=100_000)
    """For source demo: optimiser steps; more steps give a better base and take longer."""
    batch_size: int = Field(4, ge=1, le=1024)
    """For source demo: blocks of 256 tokens in one step."""
    learning_rate: float = Field(5e-3, gt=0, le=1)
    """For source demo: peak learning rate."""
    seed: int = Field(42, ge=0)
    """For source demo: seed of weights and row order."""


def make_demo(params: BaseParams, tokenizer_dir: Path, model_dir: Path) -> tuple[BaseRecord, float]:
    """Train tokenizer and model of the demo into the two directories; returns its record and its last training NLL."""
    template = get_template(params.template)
    rows = [(row["Question"], row["Complex_CoT"], row["Response"]) for row in (*read_jsonl(FACTS), *read_jsonl(PHRASES))]
    texts = (text for question, reasoning, answer in rows for text in (question, render_target(reasoning, answer)))
    write_tokenizer(train_tokenizer(texts), tokenizer_dir, template)
    check_transformers_load(tokenizer_dir)
    tok = load_tokenizer(tokenizer_dir)
    encoded = [encode(tok, template, *row) for row in rows]
    pad_id = tok.added[PAD_TOKEN]
    model = build_model(len(tok), pad_id, tok.eos_id, params.seed)
    training = DemoTraining(params.steps, params.batch_size, params.learning_rate, params.seed)
    nll = train_model(model, encoded, training)
    model.save_pretrained(model_dir)
    return describe_model_dir("demo", model_dir, path="."), nll


def record_local(params: BaseParams, tokenizer_dir: Path) -> BaseRecord:
    """Check and record a local model directory; its weights stay where they are."""
    weights = find_model(params.path, IMPORT)
    record = describe_model_dir("local", weights, path=weights.as_posix())
    read_architecture(weights)
    check_vocabulary(weights, install_tokenizer(weights, tokenizer_dir))
    check_finite(weights)
    return record


def record_hub(params: BaseParams, tokenizer_dir: Path) -> BaseRecord:
    """Fetch and record a model at its commit; its weights stay in the hub's cache."""
    model = fetch_model(params.platform, params.repo, params.revision, read_architecture)
    record = describe_model_dir("hub", model.path, path="")
    check_vocabulary(model.path, install_tokenizer(model.path, tokenizer_dir))
    check_finite(model.path)
    return replace(record, platform=params.platform, repo=params.repo, commit=model.commit, licence=model.licence)


def main() -> None:
    params = load_section("base", BaseParams)
    metrics: dict[str, Any] = {}
    with atomic_dir(TOKENIZER) as tokenizer_dir, atomic_dir(MODEL) as model_dir:
        if params.source == "demo":
            record, metrics["train_nll"] = make_demo(params, tokenizer_dir, model_dir)
        elif params.source == "local":
            record = record_local(params, tokenizer_dir)
        else:
            record = record_hub(params, tokenizer_dir)
            metrics["hub"] = {"platform": record.platform, "repo": record.repo, "revision": record.commit, "licence": record.licence}
        record.write(model_dir)
        tok = load_tokenizer(tokenizer_dir)
    metrics |= {"num_parameters": record.num_parameters, "vocab_size": len(tok), "fingerprint": record.fingerprint}
    write_metrics(METRICS, metrics)
    log.info("base: %s, %.3g parameters, vocabulary %d", record.source, record.num_parameters, len(tok))


if __name__ == "__main__":
    raise SystemExit(run_stage("base", main))
