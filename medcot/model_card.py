"""The README.md of an exported model: where it came from, what was checked, and what it must not be used for."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

DISCLAIMER = (
    "> **Research only.** This model can be wrong about diagnoses and doses. It is no medical device and gives no medical advice; "
    "no patient may be treated on its word.\n>\n"
    "> **仅供研究。** 本模型的诊断与剂量可能有误，不是医疗器械，不构成医疗建议，不得据此诊治任何病人。"
)


def render_card(name: str, facts: Mapping[str, Any], evaluation: Mapping[str, Any] | None) -> str:
    """The card as Markdown with the hub's front matter.

    facts       what export.json holds
    evaluation  metrics/evaluate.json of the same adapter, if there is one
    """
    parts = [_front_matter(facts["base"]), f"# {name}", DISCLAIMER, "## Origin", _table(_origin(facts)), "## Checks", _checks(facts)]
    if evaluation:
        parts += ["## Evaluation", _evaluation(evaluation)]
    return "\n\n".join([*parts, "## Use", _use(facts)]) + "\n"


def _front_matter(base: Mapping[str, Any]) -> str:
    lines = ["library_name: transformers", "pipeline_tag: text-generation"]
    if base.get("repo"):
        lines.insert(0, f"base_model: {base['repo']}")
    if base.get("licence", "unknown") != "unknown":
        # A text that YAML could read as something else is quoted: it is the base's author who wrote it.
        lines.insert(0, f"license: {base['licence'] if re.fullmatch('[a-z][a-z0-9.-]*', base['licence']) else json.dumps(base['licence'])}")
    return "\n".join(["---", *lines, "tags:", "  - medical", "  - reasoning", "---"])


def _origin(facts: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    yield from ((f"base {key.replace('_', ' ')}", value) for key, value in facts["base"].items())
    yield from ((f"{key} fingerprint", value) for key, value in facts["fingerprints"].items())
    yield "fine-tune's weights", facts["adapter_hash"]
    yield "prompt template", facts["template"]
    yield "system prompt", facts["system"] or "none"
    yield "base in training", facts["trained_on"].replace("none", "not quantised")
    yield "dtype", facts["dtype"]


def _table(rows: Iterator[tuple[str, Any]]) -> str:
    lines = (f"| {name} | {' '.join(str(value).replace('|', '&#124;').split())} |" for name, value in rows)
    return "\n".join(["| | |", "|---|---|", *lines])


def _checks(facts: Mapping[str, Any]) -> str:
    kl = facts["kl"]
    lines = [
        f"Mean KL per token over {kl['num_tokens']} positions in {kl['num_prompts']} validation rows, teacher-forced, "
        f"in {kl['computed_in']}:",
        f"- unmerged adapter ‖ this model: {kl['adapter_merged']:.3g} nats",
    ]
    if "trained_merged" in kl:
        lines.append(f"- as trained, on the 4-bit base ‖ this model: {kl['trained_merged']:.3g} nats (what leaving 4-bit changes)")
    return "\n".join([lines[0], "", *lines[1:]])


def _evaluation(metrics: Mapping[str, Any]) -> str:
    """NLL per token by segment, fine-tune against base, as the pipeline measured them before the merge."""
    lines = ["| segment | base | fine-tune | difference | interval |", "|---|---|---|---|---|"]
    for segment, values in metrics.items():
        if isinstance(values, Mapping) and "delta" in values:
            delta = values["delta"]
            span = f"{delta['ci_low']:+.4f} to {delta['ci_high']:+.4f}" if "ci_low" in delta else "—"
            lines.append(f"| {segment} | {values['base']['nll']:.4f} | {values['tuned']['nll']:.4f} | {delta['nll']:+.4f} | {span} |")
    rows = f"{metrics['num_rows']} held-out {metrics['split']} rows"
    head = f"NLL per token (nats) on {rows}, precision {metrics['precision']}; lower is better."
    return "\n".join([head, "", *lines])


def _use(facts: Mapping[str, Any]) -> str:
    return (
        f"`chat_template.jinja` renders the prompt that the model was trained on (template {facts['template']}), "
        "and `generation_config.json` names its stop tokens. `Modelfile` is the same prompt for Ollama."
    )
