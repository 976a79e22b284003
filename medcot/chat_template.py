"""Our prompt as other software renders it: the Jinja chat template and the Modelfile of an exported model, made from our Template.

`apply_chat_template` of an exported directory must give the ids of `encode_prompt`, prefill included; check_chat_template proves it.
A chat template joins text before anything is tokenised, so a control token that a user types becomes a real one, as it does for every
model on a hub. Servers that are open to strangers need transformers' `sanitize_control_tokens=True`, which finds the tokens to
encode as text among the literals of this template, or must strip them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from medcot.errors import DataError
from medcot.template import THINK_CLOSE, Template, encode_prompt, prefill_of
from medcot.tokenizer import CONFIG_FILE, ChatTokenizer

CHAT_TEMPLATE_FILE = "chat_template.jinja"
# Earlier turns of the assistant lose their reasoning, as Qwen3 and R1 expect; the last one, which a client may continue, keeps it.
_JINJA = """\
{%- if messages[0]['role'] == 'system' -%}
    {%- set system = messages[0]['content'] -%}
    {%- set turns = messages[1:] -%}
{%- else -%}
    {%- set system = @default_system -%}
    {%- set turns = messages -%}
{%- endif -%}
{{- @prefix -}}
{%- if system -%}
    {{- @system_head + system + @system_tail -}}
{%- endif -%}
{%- for turn in turns -%}
    {%- if turn['content'] is not string -%}
        {{- raise_exception('this model takes text only: content must be a string') -}}
    {%- endif -%}
    {%- if turn['role'] == 'user' -%}
        {{- @user_head + turn['content'] + @user_tail -}}
    {%- elif turn['role'] == 'assistant' -%}
        {%- set content = turn['content'] -%}
        {%- if not loop.last -%}
            {%- set content = content.split(@think_close)[-1].lstrip('\\n') -%}
        {%- endif -%}
        {{- @assistant_head + content + @assistant_tail -}}
    {%- else -%}
        {{- raise_exception('roles are system (first), user and assistant, got ' + turn['role']) -}}
    {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {%- if enable_thinking is defined and not enable_thinking -%}
        {{- @assistant_head + @empty_thought -}}
    {%- else -%}
        {{- @assistant_head + @prefill -}}
    {%- endif -%}
{%- endif -%}
"""


def chat_template(template: Template, eos_token: str, system: str = "") -> str:
    """The Jinja chat template that renders as render_prompt and prefill_of do.

    eos_token  the tokenizer's own EOS, for templates that end a turn with it
    system     the system prompt of conversations that bring none
    `enable_thinking=False` asks for an answer without reasoning: the prompt then holds the empty think block.
    """
    system_head, system_tail = template.system.split("{system}")
    user_head, user_tail, assistant_head = _user_parts(template)
    literals = {
        "default_system": system,
        "prefix": template.prefix,
        "system_head": system_head,
        "system_tail": system_tail,
        "user_head": user_head,
        "user_tail": user_tail,
        "assistant_head": assistant_head,
        "assistant_tail": (template.eos or eos_token) + template.llamafactory_suffix,
        "think_close": THINK_CLOSE.strip("\n"),
        "empty_thought": prefill_of(template, thinking=False),
        "prefill": prefill_of(template),
    }
    # JSON's escapes are a subset of those that Jinja reads in a string; text stays readable, and control tokens whole.
    return re.sub(r"@(\w+)", lambda name: json.dumps(literals[name[1]], ensure_ascii=False), _JINJA)


def _user_parts(template: Template) -> tuple[str, str, str]:
    """What stands before a question, what ends the user's turn, and what opens the assistant's."""
    head, rest = template.user.split("{question}")
    end = (template.eos or "") + template.llamafactory_suffix
    tail = end if template.eos and rest.startswith(end) else ""
    return head + template.instruction, tail, rest[len(tail) :]


def modelfile(template: Template, eos_token: str, system: str, weights: str, sampling: Mapping[str, Any]) -> str:
    """The text of an Ollama Modelfile whose prompt for one question is ours.

    weights   name of the GGUF file beside it
    sampling  a generation_config; greedy where it does not ask to sample
    Raises DataError for a system prompt that a Modelfile cannot hold.
    """
    if '"""' in system:
        raise DataError("params.yaml: model.system", 'a Modelfile cannot hold """', "write another kind of quote", got=system)
    prompt = template.prefix + "{{ if .System }}" + template.system.replace("{system}", "{{ .System }}") + "{{ end }}"
    prompt += template.user.replace("{question}", template.instruction + "{{ .Prompt }}") + template.prefill
    stops = dict.fromkeys((template.eos or eos_token, eos_token))
    chosen = {key: sampling[key] for key in ("temperature", "top_p", "top_k") if key in sampling} if sampling.get("do_sample") else {}
    lines = [
        f"FROM ./{weights}",
        f'TEMPLATE """{prompt}"""',
        *([f'SYSTEM """{system}"""'] if system else []),
        *(f"PARAMETER stop {json.dumps(stop, ensure_ascii=False)}" for stop in stops),
        *(f"PARAMETER {key} {value}" for key, value in (chosen or {"temperature": 0}).items()),
        "PARAMETER repeat_penalty 1",  # Ollama's default would punish a drug's name for being said again
    ]
    return "\n".join(lines) + "\n"


def settle_tokenizer(directory: Path, template: Template, eos_token: str, system: str) -> None:
    """Put the chat template beside a tokenizer and make its config say what the template does.

    The template writes BOS where the format has one. Chat endpoints add no other, but llama.cpp would, unless `add_bos_token` is false
    when the model is converted. tokenizer.json stays the base's: llama.cpp's converter knows tokenizers by the ids of a sample text,
    BOS included. So raw completions, where the tokenizer does add it, take the prompt without BOS, as they do for the base.
    """
    path = directory / CONFIG_FILE
    config = json.loads(path.read_text(encoding="utf-8"))
    config.pop("chat_template", None)
    # The generic class reads tokenizer.json as it stands; LlamaTokenizerFast over a byte-level one lost Chinese in several releases.
    config |= {"add_bos_token": False, "add_eos_token": False, "tokenizer_class": "PreTrainedTokenizerFast"}
    path.write_text(json.dumps(config, indent=2, ensure_ascii=False, sort_keys=True) + "\n", encoding="utf-8")
    (directory / CHAT_TEMPLATE_FILE).write_text(chat_template(template, eos_token, system), encoding="utf-8")


def check_chat_template(tokenizer: Any, tok: ChatTokenizer, template: Template, system: str, questions: Sequence[str]) -> None:
    """Prove that a loaded tokenizer's chat template gives the ids of encode_prompt for each question, with and without thinking.

    tokenizer  transformers' tokenizer of the exported directory
    Raises DataError at the first difference.
    """
    for question in questions:
        for thinking in (True, False):
            messages = [{"role": "user", "content": question}]
            got = tokenizer.apply_chat_template(messages, add_generation_prompt=True, enable_thinking=thinking, return_dict=False)
            if list(got) != encode_prompt(tok, template, question, system, thinking=thinking):
                cause = f"the chat template of {template.name} gives other ids than training for {question!r}"
                raise DataError("export", cause, "use a tokenizer whose <think> is an added token", got=tok.decode(got))
