"""TRL's SFTTrainer on our own tokens and labels: steps in passes, fp32 masters, an exact val loss, a stop at what is not finite.

transformers shuffles, steps the optimiser, logs and saves. It sees the rows of an optimiser step as one batch, of which it knows the
positions alone; training_step cuts them into passes and executes those (medcot/passes.py, medcot/paths.py).
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import medcot.libraries  # noqa: F401 - before peft, which imports bitsandbytes

# isort: split
import torch
from datasets import Dataset
from peft import PeftModel
from transformers import PrinterCallback
from trl import SFTTrainer
from trl.trainer.utils import add_fused_lm_head

from medcot.attention import packs
from medcot.checkpoints import newest_checkpoint
from medcot.distributed import own_random, share, sum_gradients, sum_values, world
from medcot.errors import MachineError, TrainingError
from medcot.finite import blame
from medcot.gpu_memory import free_memory, memory_limit, peak_bytes, reset_peak_memory
from medcot.model import Hardware
from medcot.nll import batch_by_tokens
from medcot.passes import CPU_TOKENS, KEEP_ALL, Budget, Cost, Search, Workload, plan_passes
from medcot.paths import choose_path
from medcot.preflight import is_out_of_memory, kept_bytes, out_of_memory, settle_budget
from medcot.resuming import Resumable
from medcot.train_params import TrainParams
from medcot.train_rows import Collator, TrainRow, num_predicted

log = logging.getLogger("medcot")


def numbers(count: int) -> Dataset:
    """The data set that transformers shuffles: the positions of rows, which the trainer then looks up."""
    return Dataset.from_dict({"row": list(range(count))})


def as_numbers(rows: Sequence[dict[str, int]]) -> dict[str, torch.Tensor]:
    """Collate what transformers hands to a step: the positions of its rows."""
    return {"row": torch.tensor([row["row"] for row in rows])}


class CotTrainer(Resumable, SFTTrainer):  # type: ignore[misc]
    """SFTTrainer with fp32 masters, an exact val loss, and a stop at the first loss or gradient that is not finite."""

    control: Any

    def __init__(
        self,
        model: Any,
        *,
        rows: Sequence[TrainRow],
        eval_rows: Sequence[TrainRow] = (),
        pad_id: int = 0,
        params: TrainParams,
        hardware: Hardware,
        metric: Callable[[Any], dict[str, float]] | None = None,
        **options: Any,
    ) -> None:
        # TRL casts the adapter of a quantised model to bfloat16; at a learning rate of 5e-6 most updates then round to
        # nothing. The values are kept aside and put back in fp32 before the optimiser is made.
        self.start = {name: p.detach().to("cpu", torch.float32, copy=True) for name, p in trainable(model)}
        data = {"train_dataset": numbers(len(rows)), "eval_dataset": numbers(len(eval_rows)) if eval_rows else None}
        super().__init__(model=model, data_collator=as_numbers, **data, **options)
        add_fused_lm_head(self.model.get_base_model() if isinstance(self.model, PeftModel) else self.model)  # without TRL's other measures
        for name, p in trainable(self.model):
            if p.dtype != torch.float32:
                p.data = self.start[name].to(p.device, copy=True)
        self.remove_callback(PrinterCallback)  # it prints to stdout
        self.rows, self.eval_rows, self.pad_id, self.metric = rows, eval_rows, pad_id, metric
        self.path = choose_path(self, params, hardware)
        self.budget, self.limit, self.always_recompute = Budget(CPU_TOKENS, CPU_TOKENS), math.inf, False
        self.record_ids = [row.id for row in rows]
        self.step_rows: list[int] = []
        self.last_rows: list[int] = []  # of the step before
        self.num_tokens = 0

    def training_step(self, model: Any, inputs: dict[str, Any], num_items_in_batch: Any = None) -> torch.Tensor:
        """Run the rows of an optimiser step forward and backward; the loss is the mean over their supervised tokens.

        Each process takes a share of the rows; gradients and loss are the sums over all.
        """
        self.step_rows = inputs["row"].tolist()
        rows = [self.rows[position] for position in self.step_rows]
        mine = share([len(row.input_ids) for row in rows], world().rank, world().size)
        with own_random(self.args.seed, self.state.global_step):
            loss = self.run_rows([rows[i] for i in mine], num_items=sum(map(num_predicted, rows)))
        (value,) = sum_values([loss.item()])  # the one wait of a step for the device
        if not math.isfinite(value):
            self._stop("the loss", value)
        sum_gradients(p for _, p in trainable(self.model))
        self.num_tokens += sum(len(row.input_ids) for row in rows)
        self._metrics["train"]["num_tokens"] = [self.num_tokens]
        return loss.new_tensor(value)

    def run_rows(self, rows: Sequence[TrainRow], num_items: int) -> torch.Tensor:
        """Add the gradients of these rows' sum of NLL / num_items, pass by pass, and return that loss."""
        plan = plan_passes([len(row.input_ids) for row in rows], self.budget.tokens, padded=not self.path.packed)
        collate = Collator(self.pad_id, packed=self.path.packed)
        if not self.model.training:
            self.model.train()
        self.path.begin_step()
        # A batch is made while the device is at the pass before it.
        losses = [self.path.run_pass(collate([rows[i] for i in one]), num_items, self.budget.keep_tokens) for one in plan]
        self.path.end_step()
        return torch.stack(losses).sum() if losses else torch.zeros((), device=self.args.device)

    def _get_grad_norm(self, model: Any, grad_norm: Any = None) -> Any:
        """Look at the norm before the optimiser uses the gradients."""
        norm = super()._get_grad_norm(model, grad_norm=grad_norm)
        scaler = getattr(self.accelerator, "scaler", None)
        # In float16 the loss scaler skips such a step and halves its scale; there only a scale that has run out is an error.
        if not torch.isfinite(torch.as_tensor(norm)) and (scaler is None or scaler.get_scale() <= 1):
            self._stop("the gradient norm", float(norm))
        self.last_rows, self.step_rows = self.step_rows, []
        return norm

    def _stop(self, what: str, value: float) -> None:
        step = self.state.global_step + 1
        blame(self.model, step, [self.record_ids[p] for p in self.last_rows])
        place = f"train: step {step}, records {', '.join(self.record_ids[p] for p in self.step_rows)}"
        kept = newest_checkpoint(Path(self.args.output_dir))
        remedy = "lower train.learning_rate, or look at these records" + (f"; the last good checkpoint is {kept}" if kept else "")
        raise TrainingError(place, f"{what} is not finite", remedy, got=value)

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        metrics = self.val_scores()
        self.log(dict(metrics))
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def val_scores(self) -> dict[str, float]:
        """The val loss, and what generated answers are worth where that is asked for (medcot/generation_metric.py)."""
        scores = {"eval_loss": self.mean_nll()}
        with self.accelerator.autocast():
            return scores | (self.metric(self.model) if self.metric else {})

    @torch.no_grad()
    def mean_nll(self) -> float:
        """Mean NLL per supervised token of val; transformers would average the means of batches, so that batch size mattered."""
        self.model.eval()
        packed, rows_at_once = packs(self.model), self.args.per_device_eval_batch_size
        collate, total = Collator(self.pad_id, packed=packed), torch.zeros((), dtype=torch.float64, device=self.args.device)
        by_tokens = batch_by_tokens([len(row.input_ids) for row in self.eval_rows], self.budget.tokens, packed=packed)
        batches = [batch[start : start + rows_at_once] for batch in by_tokens for start in range(0, len(batch), rows_at_once)]
        for batch in batches[world().rank :: world().size]:
            inputs = self._prepare_inputs(collate([self.eval_rows[i] for i in batch]))
            with self.accelerator.autocast():
                total -= self.model(**inputs, fused_lm_head=True).log_probs.double().sum()
        (nll,) = sum_values([total.item()])
        if not nll < float("inf"):
            raise TrainingError(f"train: step {self.state.global_step}", "the val loss is not finite", "lower train.learning_rate", got=nll)
        return nll / sum(map(num_predicted, self.eval_rows))

    def settle(self, params: TrainParams) -> None:
        """Choose how the steps are executed, by attempts on the run's own rows before the first step. Raises MachineError."""
        self.limit = memory_limit(kept_bytes(sum(p.numel() for _, p in trainable(self.model)), params.optim))
        self.always_recompute = params.gradient_checkpointing
        search = self._search(range(len(self.rows)), params.rows_per_step)
        self.budget = settle_budget(search, on_gpu=self.args.device.type == "cuda")
        reset_peak_memory()
        log.info("train: %s", self.budget.describe())

    def explain_out_of_memory(self) -> MachineError:
        """Attempt the rows of the step that ran out of memory in smaller passes, and say which fit."""
        self.model.zero_grad(set_to_none=True)
        free_memory(failed=True)
        kept = newest_checkpoint(Path(self.args.output_dir))
        search = self._search(self.step_rows or range(len(self.rows)), len(self.step_rows) or 1)
        return out_of_memory(f"train: step {self.state.global_step + 1}", search, self.budget.tokens, kept)

    def _search(self, rows: Sequence[int], rows_per_step: int) -> Search:
        """What a search for a budget over these rows goes by."""
        work = Workload([len(self.rows[position].input_ids) for position in rows], rows_per_step, padded=not self.path.packed)
        return Search(
            work,
            lambda positions, keep_tokens: self.attempt([rows[i] for i in positions], keep_tokens),
            self.limit,
            self.always_recompute,
            self.path.in_part,
            self.path.never_recompute,
        )

    def attempt(self, positions: Sequence[int], keep_tokens: int = KEEP_ALL) -> Cost | None:
        """Run rows forward and backward in one pass and leave no trace; None where memory does not suffice.

        keep_tokens  see Budget
        """
        rows = [self.rows[position] for position in positions]
        devices = [torch.cuda.current_device()] if self.args.device.type == "cuda" else []
        batch = Collator(self.pad_id, packed=self.path.packed)(rows)
        reset_peak_memory()
        cost = None
        with torch.random.fork_rng(devices):
            try:
                self.model.train()
                self.path.begin_step()
                for _ in range(1 + len(devices)):  # on a GPU the first takes memory from the driver, which takes time
                    begin = time.monotonic()
                    self.path.run_pass(batch, sum(map(num_predicted, rows)), keep_tokens).item()
                    seconds = time.monotonic() - begin
                self.path.end_step()
                cost = Cost(peak_bytes(), seconds)
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise  # else the exception holds the activations until this block ends
        self.model.zero_grad(set_to_none=True)
        free_memory(failed=cost is None)
        return cost

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """Write no generated card: the stage writes down what it did itself."""

    def moved_rate(self) -> float:
        """Share of the trainable elements that differ from where they started."""
        pairs = [(self.start[name], p.detach().cpu()) for name, p in trainable(self.model)]
        return sum(int((a != b).sum()) for a, b in pairs) / sum(a.numel() for a, _ in pairs)


def trainable(model: Any) -> Iterator[tuple[str, torch.nn.Parameter]]:
    """The parameters that the optimiser moves, by name."""
    return ((name, p) for name, p in model.named_parameters() if p.requires_grad)
