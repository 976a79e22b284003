"""Replies to many prompts by sampling, the same whatever else is in the batch.

Each prompt and sample draws random numbers of its own, from the seed and the prompt's name, so an adapter that does nothing replies
as its base does, and the order of the prompts does not matter: they are answered in an order of their own.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from tqdm import tqdm

from medcot.attention import virtual_tokens
from medcot.decoding import next_tokens
from medcot.errors import DataError, MachineError
from medcot.evaluate_params import GenerationParams
from medcot.inference import fused_norms, unpacked_weights
from medcot.model import peak_memory
from medcot.replies import split_reply
from medcot.slot_cache import slots_attention, slots_fit
from medcot.slots import Request, Slots, check_numbers
from medcot.tasks import Prompt, Prompting, Reply
from medcot.template import encode_prompt, eos_id, prefill_of

PLACE = "params.yaml: evaluate.generation"
log = logging.getLogger("medcot")


def generate_replies(model: Any, prompting: Prompting, prompts: Sequence[Prompt], params: GenerationParams) -> list[Reply]:
    """Reply to each prompt num_samples times; in the order of the prompts, then of the samples.

    model  a transformers causal LM or a peft model over one, in evaluation mode
    Raises DataError when a prompt and its reply are longer than the model reads, MachineError when a GPU's memory does not suffice,
    TrainingError when the weights are broken.
    """
    tok, template = prompting.tok, prompting.template
    pairs = [(prompt, sample) for prompt in prompts for sample in range(params.num_samples)]
    ids = {text: encode_prompt(tok, template, text, prompting.system) for text in {prompt.text for prompt in prompts}}
    requests = [
        Request(ids[prompt.text], params.max_new_tokens, (params.seed, prompt.endpoint, prompt.benchmark, prompt.item, sample))
        for prompt, sample in pairs
    ]
    stops = {eos_id(tok, template), tok.eos_id}
    begin = time.monotonic()
    outputs = generate_ids(model, requests, stops, params)
    tokens, seconds = sum(map(len, outputs)), max(1e-9, time.monotonic() - begin)
    log.info("generate: %s", ", ".join([f"{len(outputs)} replies, {tokens} new tokens, {tokens / seconds:,.0f} tokens/s", *peak_memory()]))
    return [make_reply(prompting, *pair, output, stops) for pair, output in zip(pairs, outputs, strict=True)]


def make_reply(prompting: Prompting, prompt: Prompt, sample: int, ids: Sequence[int], stops: set[int]) -> Reply:
    """Decode a reply's tokens and split it at its thought."""
    ended = bool(ids) and ids[-1] in stops
    prefill = prefill_of(prompting.template)
    text = prefill + prompting.tok.decode(ids[:-1] if ended else ids)
    state, reasoning, answer = split_reply(text, bool(prefill))
    return Reply(prompt.endpoint, prompt.benchmark, prompt.item, sample, text, state, reasoning, answer, len(ids), not ended)


def generate_ids(model: Any, requests: Sequence[Request], stops: set[int], params: GenerationParams) -> list[list[int]]:
    """The new tokens of each request, up to and including the first stop token, in the order of the requests."""
    check_lengths(model, requests)
    order = sorted(range(len(requests)), key=lambda i: (-len(requests[i].ids), repr(requests[i].key)))
    ordered = [requests[i] for i in order]
    outputs: list[list[int]] = [[] for _ in requests]
    generate = _in_slots if slots_fit(model) else in_batches
    try:
        for i, ids in tqdm(generate(model, ordered, stops, params), total=len(order), desc="generate", unit="reply", disable=None):
            outputs[order[i]] = ids
    except torch.OutOfMemoryError:
        cause = "the GPU's memory does not hold the replies that are generated at a time"
        raise MachineError(f"{PLACE}.batch_size", cause, "lower it, or free the GPU", got=params.batch_size) from None
    return outputs


def _in_slots(model: Any, requests: Sequence[Request], stops: set[int], params: GenerationParams) -> Iterator[tuple[int, list[int]]]:
    if requests:
        with slots_attention(model), fused_norms(model), unpacked_weights(model):
            yield from Slots(model, requests, stops, params).run(requests)


def in_batches(model: Any, requests: Sequence[Request], stops: set[int], params: GenerationParams) -> Iterator[tuple[int, list[int]]]:
    """Any architecture, in batches of prompts of like length under transformers' own cache; index and new tokens of each request."""
    for start in range(0, len(requests), params.batch_size):
        yield from enumerate(_padded_batch(model, requests[start : start + params.batch_size], stops, params), start)


def check_lengths(model: Any, requests: Sequence[Request]) -> None:
    """Refuse a request that may need more positions than the model has."""
    most, before = getattr(model.config.get_text_config(), "max_position_embeddings", None), virtual_tokens(model)
    longest = max(requests, key=lambda request: len(request.ids) + request.limit, default=None)
    if most and longest and before + len(longest.ids) + longest.limit > most:
        cause = f"a prompt of {len(longest.ids)} tokens with its reply is longer than the {most - before} that the model reads"
        raise DataError(f"{PLACE}.max_new_tokens", cause, "lower it", got=longest.limit)


@torch.inference_mode()
def _padded_batch(model: Any, requests: Sequence[Request], stops: set[int], params: GenerationParams) -> list[list[int]]:
    """Generate for a batch that is padded on the left; it ends with its longest reply.

    A prefix is put into the cache once; from there on the base is asked, for peft would put it in at every step.
    """
    width, device, before = max(len(request.ids) for request in requests), model.device, virtual_tokens(model)
    step = torch.tensor([[0] * (width - len(request.ids)) + request.ids for request in requests], device=device)
    mask = torch.tensor([[0] * (width - len(request.ids)) + [1] * len(request.ids) for request in requests], device=device)
    positions, cache = (mask.cumsum(-1) - 1).clamp(min=0) + before, None
    if before:
        cache, model = model.get_prompt(batch_size=len(requests)), model.get_base_model()
        mask = torch.cat([mask.new_ones(len(requests), before), mask], 1)
    longest = max(request.limit for request in requests)
    random = torch.nn.utils.rnn.pad_sequence([request.random() for request in requests], batch_first=True).to(device)
    outputs: list[list[int]] = [[] for _ in requests]
    for i in range(longest):
        output = model(input_ids=step, attention_mask=mask, position_ids=positions, past_key_values=cache, use_cache=True, logits_to_keep=1)
        cache = output.past_key_values
        check_numbers(bool(output.logits[:, -1].isnan().any()))
        chosen = next_tokens(output.logits[:, -1], random[:, i], params)
        open_rows = 0
        for ids, request, token in zip(outputs, requests, chosen.tolist(), strict=True):
            if len(ids) < request.limit and not (ids and ids[-1] in stops):
                ids.append(token)
                open_rows += len(ids) < request.limit and token not in stops
        if not open_rows:
            break
        step, positions = chosen[:, None], positions[:, -1:] + 1
        mask = torch.cat([mask, torch.ones_like(step)], 1)
    return outputs
