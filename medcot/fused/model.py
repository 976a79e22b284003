"""A QLoRA step written out: forward and backward of a whole model on packed rows, without autograd."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.functional import embedding

from medcot.fused.attention import Pack
from medcot.fused.head import Head
from medcot.fused.layer import Layer, Saved
from medcot.fused.linear import Masters, Scratch
from medcot.fused.memory import KEEP_ALL, KEEP_INPUT, plan_levels
from medcot.template import MASK

# transformers rounds the cosines and sines of a 16-bit model to 16 bits. Rounded alike, what is trained is the function that evaluation and
# inference compute afterwards.
ROUNDED_ANGLES = True


class FusedModel:
    """The fused step on top of a peft model that support.why_not has nothing against.

    The peft model stays what it is: its parameters are the fp32 masters that the optimiser moves, and its own forward computes with the
    same values. An optimiser step is refresh(), run_pass() for each pass, finish().

    no_recompute_tokens  longer passes recompute as many layers as needed; None: no pass does, 0: every pass recomputes everything
    """

    def __init__(self, peft_model: Any) -> None:
        model = peft_model.get_base_model()
        self.embedding, self.rotary = model.model.embed_tokens.weight.data, model.model.rotary_emb
        self.scratch = Scratch()
        self.layers = [Layer(module, self.scratch, self.embedding.dtype) for module in model.model.layers]
        groups = [group for layer in self.layers for group in layer.groups]
        self.masters = Masters(groups)
        self.head = Head(model.model.norm, model.lm_head, self.scratch)
        self.scratch.reserve(max(self.head.numel, *(group.numel for group in groups)), self.embedding)
        # Below the lowest adapter nothing is trained: no gradient goes there, and nothing is kept for one.
        self.lowest = next(i for i, layer in enumerate(self.layers) if layer.is_trained)
        self.no_recompute_tokens: int | None = None
        if self.embedding.is_cuda:
            torch.cuda.empty_cache()  # of the layers' weights before they moved together

    def refresh(self) -> None:
        """Read the fp32 masters anew and forget the accumulated gradients: the start of an optimiser step."""
        with torch.no_grad():
            self.masters.read()

    def finish(self) -> None:
        """Add the accumulated gradients to `.grad` of the masters: the end of an optimiser step's passes."""
        with torch.no_grad():
            self.masters.give_gradients()

    def run_pass(self, batch: Mapping[str, Any], num_items: int, recompute: int | Literal["auto"] = "auto") -> Tensor:
        """Run one packed pass forward and backward, accumulating the gradients of sum(NLL) / num_items; returns that loss.

        batch      what Collator packs, best on the CPU: the supervised positions are looked up there, so nothing waits for the GPU
        num_items  supervised tokens of the whole optimiser step
        recompute  "auto": by no_recompute_tokens; else what each layer keeps (medcot/fused/memory.py): 0, 1 or 2
        """
        device = self.embedding.device
        loss = torch.zeros((), device=device)
        with torch.inference_mode(), torch.autocast(device.type, enabled=False):
            positions, targets = _supervised(batch["labels"])
            if not len(positions):
                return loss
            pack = self._pack(batch)
            stream, delta, saved = self._forward(_moved(batch["input_ids"], device)[0], pack, recompute)
            assert delta is not None
            pad = max(group.rank for layer in self.layers for group in (layer.o, layer.down))
            nll, grad = self.head.run(stream, delta, _moved(positions, device), _moved(targets, device), 1 / num_items, pad)
            del stream, delta
            for index in reversed(range(self.lowest, len(self.layers))):
                self.layers[index].backward(grad, saved.pop(), pack, needs_input=index > self.lowest)
            return loss.copy_(nll)  # a tensor that may leave inference mode

    def _forward(self, ids: Tensor, pack: Pack, recompute: int | Literal["auto"]) -> tuple[Tensor, Tensor | None, list[Saved]]:
        stream, delta, saved = embedding(ids, self.embedding), None, []
        levels = self._levels(len(ids), recompute)
        for index, layer in enumerate(self.layers):
            kept = index >= self.lowest
            stream, delta, record = layer.forward(stream, delta, pack, levels[index] if kept else KEEP_INPUT)
            if kept:
                saved.append(record)
        return stream, delta, saved

    def _levels(self, tokens: int, recompute: int | Literal["auto"]) -> list[int]:
        if recompute != "auto":
            return [recompute] * len(self.layers)
        trained = len(self.layers) - self.lowest
        return [KEEP_ALL] * self.lowest + plan_levels(self.layers[-1].shape, trained, tokens, self.no_recompute_tokens)

    def _pack(self, batch: Mapping[str, Any]) -> Pack:
        device = self.embedding.device
        like = torch.empty(0, dtype=self.embedding.dtype if ROUNDED_ANGLES else torch.float32, device=device)
        cos, sin = (
            angles[0, :, : angles.shape[-1] // 2].float().contiguous()
            for angles in self.rotary(like, _moved(batch["position_ids"], device))
        )
        return Pack(_moved(batch["cu_seq_lens_q"], device), int(batch["max_length_q"]), cos, sin)


def _supervised(labels: Tensor) -> tuple[Tensor, Tensor]:
    """Positions (n,) whose next token is supervised, and those tokens, from labels (1, T)."""
    following = labels[0, 1:]
    positions = (following != MASK).nonzero()[:, 0]
    return positions, following[positions]


def _moved(tensor: Tensor, device: torch.device) -> Tensor:
    """Copy to the device without waiting for it."""
    pinned = tensor.pin_memory() if device.type == "cuda" and tensor.device.type == "cpu" else tensor
    return pinned.to(device, non_blocking=True)
