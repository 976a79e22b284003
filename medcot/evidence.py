"""The evidence of one arm: everything that both models are asked, gathered once and alike, then measured with one of them.

Likelihoods come first, then every generated reply in one pass over all endpoints, then the scores. What is gathered is hashed into the
manifest, so that two arms that were asked different things are never subtracted.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import polars as pl

from medcot import answers, choices, instructions, red_flags
from medcot.arm import Arm
from medcot.benchmarks import read_benchmarks
from medcot.estimate import announce
from medcot.evaluate_params import EvaluateParams
from medcot.evaluation import EvalSet, score_rows, score_texts, segment_spans, text_spans
from medcot.general_texts import GeneralText
from medcot.generation import generate_replies
from medcot.guessing import chance_level
from medcot.health import health_frame
from medcot.knowledge import Tasks, excluded_frame, general_tasks, knowledge_tasks, read_marks
from medcot.lexicon import read_lexicon
from medcot.llamafactory import Row
from medcot.probes import answer_probes
from medcot.records import canonical, seeded_order, short_hash
from medcot.server import Server
from medcot.tasks import CHANCE, ENDPOINTS, GENERATED, HELDOUT, Prompt, Reply, Score, prompts_hash, reply_frame, score_frame

BENCHMARKS, GENERAL = Path("data/benchmarks"), Path("data/general")
SAMPLES = {"sample": Path("data/sample/benchmark.jsonl"), "sample_facts": Path("data/sample/knowledge.jsonl")}
MARKS = Path("data/decontaminated/items.parquet")
SUITES = Path("data/suites")
GENERAL_SUITES = {name: SUITES / f"{name}.jsonl" for name in ("general_choice", "general_answer", "general_text")}
SEED = 0  # of the choice of items: another choice would be another eval set, so it is no param
SCORERS: dict[str, Callable[[Prompt, Reply], Score]] = {
    "choice_generated": choices.score_reply,
    "open": answers.score_reply,
    "general_answer": answers.score_reply,
    "instructions": instructions.score_reply,
    "red_flags": red_flags.score_reply,
}


@dataclass(frozen=True, slots=True)
class Evidence:
    """What is asked beside the rows of the split.

    prompts   endpoint → its prompts, in order of benchmark and item; HELDOUT too
    texts     general texts, for likelihood and divergence
    excluded  items that cannot be scored and are asked of neither arm, with the reason
    checked   whether stage decontaminate compared every item of knowledge with the training data
    """

    prompts: dict[str, list[Prompt]] = field(default_factory=dict)
    texts: list[GeneralText] = field(default_factory=list)
    excluded: pl.DataFrame = field(default_factory=lambda: excluded_frame(Tasks([], [], [])))
    checked: bool = False

    def manifest(self) -> dict[str, Any]:
        """The part of an arm's manifest that says what was asked; marks are apart, so that runs on other training rows can be compared."""
        asked = {name: self.prompts[name] for name in (HELDOUT, *ENDPOINTS) if self.prompts.get(name)}
        found = [prompt for name in ENDPOINTS for prompt in asked.get(name, ()) if prompt.contaminated is not False]
        chances = {name: chance_level(prompts) for name, prompts in asked.items()}
        marks = [[prompt.endpoint, prompt.benchmark, prompt.item, prompt.contaminated] for prompt in found]
        return {
            "contamination": "checked" if self.checked else "not_checked",
            "contamination_hash": short_hash(canonical(marks)),
            "general_text_hash": short_hash(canonical([[text.id, text.prompt, text.text] for text in self.texts])),
            **{f"prompts_hash.{name}": prompts_hash(prompts) for name, prompts in asked.items()},
            **{f"num_items.{name}": len(prompts) for name, prompts in asked.items()},
            **{f"{CHANCE}{name}": chance for name, chance in chances.items() if chance is not None},
            "num_excluded": self.excluded.height,
        }


def gather(data: EvalSet, params: EvaluateParams) -> Evidence:
    """Read what both arms are asked: questions of the split, your benchmarks, general questions, instructions and red flags.

    The sample's own benchmarks are asked where stage decontaminate checked them. Raises DataError as the readers do.
    """
    marks = read_marks(MARKS)
    names = {key.partition(":")[0] for key in marks}
    items = read_benchmarks(BENCHMARKS, {name: path for name, path in SAMPLES.items() if name in names})
    knowledge = knowledge_tasks(items, marks, params.split, params.max_items, SEED)
    wanted = {name: path for name, path in GENERAL_SUITES.items() if getattr(params.max_items, name)}
    general = general_tasks(GENERAL, wanted, params.split, params.max_items, SEED)
    prompts: dict[str, list[Prompt]] = defaultdict(list)
    for prompt in (*heldout_prompts(data, params.max_items.heldout), *knowledge.prompts, *marked(general.prompts, marks)):
        prompts[prompt.endpoint].append(prompt)
    for name, read, most in (
        ("instructions", instructions.read_prompts, params.max_items.instructions),
        ("red_flags", red_flags.read_prompts, params.max_items.red_flags),
    ):
        prompts[name] = marked(choose(read(SUITES / f"{name}.jsonl"), most), marks) if most else []
    checked = all(prompt.contaminated is not None for prompt in knowledge.prompts)
    excluded = pl.concat([excluded_frame(knowledge), excluded_frame(general)])
    return Evidence(dict(prompts), general.texts, excluded, checked)


def marked(prompts: Sequence[Prompt], marks: Mapping[str, bool]) -> list[Prompt]:
    """The prompts with the marks of stage decontaminate, which compares our own suites with the training data too."""
    return [replace(prompt, contaminated=marks.get(f"{prompt.benchmark}:{prompt.item}")) for prompt in prompts]


def heldout_prompts(data: EvalSet, most: int) -> list[Prompt]:
    """The questions of the split, a seeded choice in id order."""
    rows = sorted(data.rows, key=lambda row: seeded_order(row.id, SEED))[:most]
    return [_heldout(row, data.split) for row in sorted(rows, key=lambda row: row.id)]


def _heldout(row: Row, split: str) -> Prompt:
    return Prompt(HELDOUT, split, row.id, row.id, False, row.question, (), row.answer)


def choose(prompts: Sequence[Prompt], most: int) -> list[Prompt]:
    """At most so many prompts of a suite, a seeded choice in item order.

    Suites are asked whole on val and on test: they can only speak against a fine-tune, nothing is chosen by them, and half of one would
    be too few items to show that nothing was lost.
    """
    chosen = sorted(prompts, key=lambda prompt: seeded_order(prompt.item, SEED))[:most]
    return sorted(chosen, key=lambda prompt: prompt.item)


def describe_generation(params: EvaluateParams, server: Server | None) -> str:
    """Say how replies are generated, for the manifest."""
    settings = params.generation.model_dump(exclude={"batch_size"})
    return f"{server.describe() if server else 'medcot'} {canonical(settings)}"


def run_arm(
    model: Any, data: EvalSet, evidence: Evidence, params: EvaluateParams, manifest: dict[str, Any], server: Server | None = None
) -> Arm:
    """Measure one model on everything; a server, where there is one, generates the replies in its place."""
    likely = [prompt for name in ("choice", "general_choice") for prompt in evidence.prompts.get(name, ())]
    asked = [prompt for name in (HELDOUT, *GENERATED) for prompt in evidence.prompts.get(name, ())]
    num_replies = 0 if server else len(asked) * params.generation.num_samples
    announce(model, nll_tokens=count_tokens(data, evidence), num_replies=num_replies, params=params)
    most = params.max_tokens_per_batch
    frame = pl.concat([score_rows(model, data, most), score_texts(model, data, evidence.texts, most)])
    scores = choices.score_by_likelihood(model, data.prompting, likely, most)
    probes = answer_probes(model, data.tok, data.template, data.system, params.probes, params.probe_max_new_tokens)
    if server is not None:
        replies = server.generate_replies(data.prompting, asked, params.generation)
    else:
        replies = generate_replies(model, data.prompting, asked, params.generation)
    by_key = {(prompt.endpoint, prompt.benchmark, prompt.item): prompt for prompt in asked}
    for reply in replies:
        if reply.endpoint != HELDOUT:
            scores.append(SCORERS[reply.endpoint](by_key[reply.endpoint, reply.benchmark, reply.item], reply))
    gold = {row.id: row for row in data.rows}
    heldout = [reply for reply in replies if reply.endpoint == HELDOUT]
    health = health_frame(evidence.prompts.get(HELDOUT, []), heldout, gold, read_lexicon(SUITES / "lexicon.json"))
    return Arm(frame, probes, manifest, reply_frame(replies), score_frame(scores), health)


def count_tokens(data: EvalSet, evidence: Evidence) -> int:
    """Tokens whose likelihood is measured, near enough for an estimate: rows, texts, and items with choices."""
    rows = sum(len(spans.input_ids) for row in (*data.rows, *data.train) for spans in segment_spans(row, data))
    texts = sum(len(text_spans(text, data).input_ids) for text in evidence.texts)
    items = sum(len(data.tok.encode(prompt.text)) for name in ("choice", "general_choice") for prompt in evidence.prompts.get(name, ()))
    return rows + texts + items
