"""TRL's SFTTrainer on our own tokens and labels: fp32 masters, an exact val loss, and a stop at the first number that is not finite."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import medcot.libraries  # noqa: F401 - before peft, which imports bitsandbytes

# isort: split
import torch
from datasets import Dataset
from torch.nn.utils.rnn import pad_sequence
from transformers import PrinterCallback
from trl import SFTTrainer

from medcot.attention import pack
from medcot.checkpoints import newest_checkpoint
from medcot.errors import TrainingError
from medcot.template import MASK


@dataclass(frozen=True, slots=True)
class TrainRow:
    """A tokenised row: ids, labels (MASK over the prompt) and the record's id, for messages."""

    id: str
    input_ids: list[int]
    labels: list[int]


def to_dataset(rows: Sequence[TrainRow]) -> Dataset:
    """Rows as the trainer takes them; `row` is the position by which a message finds the record."""
    columns = {"input_ids": [r.input_ids for r in rows], "labels": [r.labels for r in rows], "row": list(range(len(rows)))}
    return Dataset.from_dict(columns)


class Collator:
    """Lay rows end to end without padding, or pad them on the right to the longest of the batch; labels of padding are MASK."""

    def __init__(self, pad_id: int, *, packed: bool = False) -> None:
        self.pad_id, self.packed = pad_id, packed

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        return self._pack(rows) if self.packed else self._pad(rows)

    def _pack(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        # The first token of a row is predicted from the last of the row before: its label is masked, as nothing stands before it.
        labels = [label for row in rows for label in (MASK, *row["labels"][1:])]
        inputs = pack([row["input_ids"] for row in rows])
        return {**inputs, "labels": torch.tensor([labels]), "row": torch.tensor([row["row"] for row in rows])}

    def _pad(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        ids = [torch.tensor(row["input_ids"]) for row in rows]
        labels = [torch.tensor(row["labels"]) for row in rows]
        lengths = torch.tensor([len(row) for row in ids])
        padded = pad_sequence(ids, batch_first=True, padding_value=self.pad_id)
        return {
            "input_ids": padded,
            "attention_mask": (torch.arange(padded.shape[1]) < lengths[:, None]).long(),
            "labels": pad_sequence(labels, batch_first=True, padding_value=MASK),
            "row": torch.tensor([row["row"] for row in rows]),
        }


class CotTrainer(SFTTrainer):  # type: ignore[misc]
    """SFTTrainer with fp32 masters, an exact val loss, and a stop at the first loss or gradient that is not finite."""

    control: Any

    def __init__(self, model: Any, *, rows: Sequence[TrainRow], **options: Any) -> None:
        # TRL casts the adapter of a quantised model to bfloat16; at a learning rate of 5e-6 most updates then round to
        # nothing. The values are kept aside and put back in fp32 before the optimiser is made.
        self.start = {name: p.detach().to("cpu", torch.float32, copy=True) for name, p in trainable(model)}
        super().__init__(model=model, train_dataset=to_dataset(rows), **options)
        for name, p in trainable(self.model):
            if p.dtype != torch.float32:
                p.data = self.start[name].to(p.device, copy=True)
        self.remove_callback(PrinterCallback)  # it prints to stdout
        self.record_ids = [row.id for row in rows]
        self.step_rows: list[int] = []

    def training_step(self, model: Any, inputs: dict[str, Any], num_items_in_batch: Any = None) -> torch.Tensor:
        self.step_rows += inputs.pop("row").tolist()
        loss: torch.Tensor = super().training_step(model, inputs, num_items_in_batch=num_items_in_batch)
        if not torch.isfinite(loss):
            self._stop("the loss", loss.item())
        return loss

    def _get_grad_norm(self, model: Any, grad_norm: Any = None) -> Any:
        """Look at the norm before the optimiser uses the gradients."""
        norm = super()._get_grad_norm(model, grad_norm=grad_norm)
        scaler = getattr(self.accelerator, "scaler", None)
        # In float16 the loss scaler skips such a step and halves its scale; there only a scale that has run out is an error.
        if not torch.isfinite(torch.as_tensor(norm)) and (scaler is None or scaler.get_scale() <= 1):
            self._stop("the gradient norm", float(norm))
        self.step_rows = []
        return norm

    def _stop(self, what: str, value: float) -> None:
        place = f"train: step {self.state.global_step + 1}, records {', '.join(self.record_ids[p] for p in self.step_rows)}"
        kept = newest_checkpoint(Path(self.args.output_dir))
        remedy = "lower train.learning_rate, or look at these records" + (f"; the last good checkpoint is {kept}" if kept else "")
        raise TrainingError(place, f"{what} is not finite", remedy, got=value)

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        metrics = {"eval_loss": self.mean_nll()}
        self.log(dict(metrics))
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    @torch.no_grad()
    def mean_nll(self) -> float:
        """Mean NLL per supervised token of val; transformers would average the means of batches, so that batch size mattered."""
        total, tokens = 0.0, 0
        self.model.eval()
        for batch in self.get_eval_dataloader():
            del batch["row"]
            with self.accelerator.autocast():
                output = self.model(**self._prepare_inputs(batch), fused_lm_head=True)
            total -= output.log_probs.double().sum().item()
            tokens += int(output.label_mask.sum())
        if not total < float("inf"):
            raise TrainingError(
                f"train: step {self.state.global_step}", "the val loss is not finite", "lower train.learning_rate", got=total
            )
        return total / tokens

    def attempt(self, positions: Sequence[int]) -> None:
        """Run rows forward and backward and forget the gradients; raises an out-of-memory where they do not fit."""
        batch = self.data_collator([self.train_dataset[i] for i in positions])
        del batch["row"]
        devices = [torch.cuda.current_device()] if self.args.device.type == "cuda" else []
        try:
            with torch.random.fork_rng(devices), self.accelerator.autocast():
                self.compute_loss(self.model.train(), self._prepare_inputs(batch)).backward()
        finally:
            self.model.zero_grad(set_to_none=True)
            self._metrics["train"].clear()
            self._total_train_tokens = 0
            if torch.cuda.is_available():
                torch.cuda.empty_cache()

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """Write no generated card: the stage writes down what it did itself."""

    def moved_rate(self) -> float:
        """Share of the trainable elements that differ from where they started."""
        pairs = [(self.start[name], p.detach().cpu()) for name, p in trainable(self.model)]
        return sum(int((a != b).sum()) for a, b in pairs) / sum(a.numel() for a, _ in pairs)


def trainable(model: Any) -> Iterator[tuple[str, torch.nn.Parameter]]:
    """The parameters that the optimiser moves, by name."""
    return ((name, p) for name, p in model.named_parameters() if p.requires_grad)
