"""The `train` section, under LLaMA-Factory's names where it has one."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from medcot.params import Params

POLYNOMIAL_END = 1e-7  # where transformers' polynomial schedule ends


class TrainParams(Params):
    """Section `train` of params.yaml. One optimiser step is batch × accumulation ROWS, however they are executed."""

    finetuning_type: Literal["lora", "full", "prefix", "none"] = "lora"
    """lora: an adapter (QLoRA if model.quantization is nf4); full: every weight; prefix: keys and values before each row; none: nothing."""
    adapter: str = ""
    """Import this finished peft or LLaMA-Factory adapter instead of training: a directory under models/import_adapter/."""
    lora_rank: int = Field(8, ge=1, le=1024)
    """Rank of the update; more rank is more capacity and more memory."""
    lora_alpha: float = Field(16, gt=0)
    """Scale of the update: alpha / rank, or alpha / √rank with use_rslora."""
    lora_dropout: float = Field(0.0, ge=0, lt=1)
    """Share of the adapter's inputs dropped in training, in [0, 1)."""
    lora_target: str = Field("all", min_length=1)
    """Linear layers to adapt: all, or names with commas such as q_proj,v_proj."""
    additional_target: str = ""
    """Modules trained whole and saved with the adapter (peft: modules_to_save), with commas, such as embed_tokens,lm_head."""
    num_virtual_tokens: int = Field(20, ge=1, le=1024)
    """Length of a prefix (Li & Liang 2021, https://arxiv.org/abs/2101.00190), for finetuning_type prefix alone."""
    use_rslora: bool = False
    """Rank-stabilised scaling (Kalajdzievski 2023, https://arxiv.org/abs/2312.03732)."""
    use_dora: bool = False
    """Weight-decomposed adaptation (Liu et al. 2024, https://arxiv.org/abs/2402.09353); slower."""
    neftune_noise_alpha: float = Field(0.0, ge=0)
    """Noise on embeddings (Jain et al. 2023, https://arxiv.org/abs/2310.05914); 0 = off."""
    label_smoothing_factor: float = Field(0.0, ge=0, lt=1)
    """Share of probability spread over all tokens; 0 = off. Raises the training loss by design."""
    learning_rate: float = Field(2e-4, ge=0, le=1)
    """Peak learning rate of the optimiser."""
    lr_scheduler_type: Literal["linear", "cosine", "constant", "constant_with_warmup", "polynomial", "inverse_sqrt"] = "cosine"
    """Course of the learning rate after warm-up; polynomial is linear down to 1e-7."""
    warmup_ratio: float = Field(0.0, ge=0, lt=1)
    """Share of all steps spent on warm-up; used when warmup_steps is 0."""
    warmup_steps: int = Field(0, ge=0)
    """Steps of warm-up; beats warmup_ratio."""
    num_train_epochs: float = Field(3.0, gt=0)
    """Passes over the training rows; used when max_steps is 0."""
    max_steps: int = Field(0, ge=0)
    """Optimiser steps; 0 = as many as num_train_epochs needs."""
    per_device_train_batch_size: int = Field(1, ge=1)
    """Rows, which times gradient_accumulation_steps are those of an optimiser step; passes are planned by memory."""
    per_device_eval_batch_size: int = Field(8, ge=1)
    """Rows of one evaluation pass, at most."""
    gradient_accumulation_steps: int = Field(1, ge=1)
    """Rows of an optimiser step = batch × accumulation."""
    optim: Literal["adamw_torch", "adamw_8bit", "paged_adamw_8bit", "paged_adamw_32bit", "adafactor", "sgd"] = "adamw_torch"
    """Optimiser; the 8-bit ones store their state in a quarter of the memory."""
    weight_decay: float = Field(0.0, ge=0)
    """Decoupled weight decay."""
    adam_beta1: float = Field(0.9, ge=0, lt=1)
    """Decay of the first moment."""
    adam_beta2: float = Field(0.999, ge=0, lt=1)
    """Decay of the second moment."""
    adam_epsilon: float = Field(1e-8, gt=0)
    """Added to the denominator of Adam's update."""
    max_grad_norm: float = Field(1.0, ge=0)
    """Gradients are scaled down to this norm; 0 = never."""
    gradient_checkpointing: bool = False
    """Recompute activations in every backward pass; false = only where memory asks for it. Changes no result."""
    eval_steps: int = Field(0, ge=0)
    """Evaluate on val after every so many steps; 0 = at the end only."""
    save_steps: int = Field(0, ge=0)
    """Write a checkpoint to resume from after every so many steps; 0 = none."""
    load_best_model_at_end: bool = False
    """Keep the best checkpoint by metric_for_best_model instead of the last; the earlier of equals. Needs eval_steps."""
    metric_for_best_model: Literal["eval_loss", "eval_bleu_4", "eval_rouge_l"] = "eval_loss"
    """What is best: the lowest val loss, or the highest overlap of greedy answers with those of val rows; needs eval_generate_rows."""
    eval_generate_rows: int = Field(0, ge=0)
    """Val rows that are answered at each evaluation, the same ones each time, chosen by a hash of their ids; 0 = none."""
    eval_max_new_tokens: int = Field(512, ge=1)
    """Longest of these replies in tokens, thought included; one that is cut has no answer and scores 0."""
    early_stopping_steps: int = Field(0, ge=0)
    """Stop after so many evaluations that are no better by metric_for_best_model; 0 = never. Needs load_best_model_at_end."""
    seed: int = Field(42, ge=0, lt=2**32)
    """Seed of adapter initialisation, row order and dropout."""

    @model_validator(mode="after")
    def _check_combinations(self) -> Self:
        if self.load_best_model_at_end and not self.eval_steps:
            raise ValueError("load_best_model_at_end needs eval_steps > 0")
        if self.load_best_model_at_end and self.save_steps % self.eval_steps:
            raise ValueError("load_best_model_at_end needs save_steps to be 0 or a multiple of eval_steps")
        if self.early_stopping_steps and not self.load_best_model_at_end:
            raise ValueError("early_stopping_steps needs load_best_model_at_end: true")
        if self.metric_for_best_model != "eval_loss" and not self.load_best_model_at_end:
            raise ValueError("metric_for_best_model needs load_best_model_at_end: true")
        if self.metric_for_best_model != "eval_loss" and not self.eval_generate_rows:
            raise ValueError(f"metric_for_best_model {self.metric_for_best_model} needs eval_generate_rows > 0")
        if self.finetuning_type == "prefix":
            self._check_prefix()
        if self.lr_scheduler_type == "polynomial" and self.learning_rate <= POLYNOMIAL_END:
            raise ValueError(f"lr_scheduler_type polynomial ends at {POLYNOMIAL_END}, so it needs a learning_rate above that")
        return self

    def _check_prefix(self) -> None:
        if self.gradient_checkpointing:
            cause = "transformers drops the cache in recomputed layers, and a prefix lies in the cache"
            raise ValueError(f"finetuning_type prefix needs gradient_checkpointing: false: {cause}")
        if self.additional_target:
            raise ValueError("finetuning_type prefix trains nothing else: additional_target must be empty")

    @property
    def rows_per_step(self) -> int:
        """Rows that one optimiser step sees."""
        return self.per_device_train_batch_size * self.gradient_accumulation_steps

    def num_steps(self, num_rows: int) -> int:
        """Optimiser steps for this many training rows; the last step of an epoch may see fewer rows."""
        per_epoch = max(1, -(-num_rows // self.rows_per_step))
        return self.max_steps or -int(-self.num_train_epochs * per_epoch // 1)

    def num_warmup_steps(self, num_steps: int) -> int:
        """Steps of warm-up out of num_steps."""
        return self.warmup_steps or -int(-self.warmup_ratio * num_steps // 1)

    def llamafactory_config(self) -> dict[str, object]:
        """The same hyper-parameters as LLaMA-Factory's config spells them; what is switched off here is left out there.

        It has no prefix tuning: the type and length of a prefix stand there as a record, and it refuses them.
        """
        ours = {"adapter", "gradient_checkpointing", "max_steps", "finetuning_type", "metric_for_best_model", "eval_generate_rows"}
        ours |= {"eval_max_new_tokens"} | (set() if self.finetuning_type == "prefix" else {"num_virtual_tokens"})
        optional = {"additional_target", "neftune_noise_alpha", "early_stopping_steps", "eval_steps", "save_steps", "warmup_steps"}
        values = self.model_dump(exclude=ours)
        return {
            **{key: value for key, value in values.items() if value or key not in optional},
            "lora_alpha": int(self.lora_alpha) if self.lora_alpha == int(self.lora_alpha) else self.lora_alpha,
            "finetuning_type": "lora" if self.finetuning_type == "none" else self.finetuning_type,
            "max_steps": self.max_steps or -1,
            "eval_strategy": "steps" if self.eval_steps else "no",
            "save_strategy": "steps" if self.save_steps or self.load_best_model_at_end else "no",
            "disable_gradient_checkpointing": False,  # it does not measure whether activations fit
            "logging_steps": 1,
            "packing": False,
            **self._llamafactory_metric(),
        }

    def _llamafactory_metric(self) -> dict[str, object]:
        """LLaMA-Factory's own metric of the kind that was chosen here: over whole replies, in words of its own segmentation."""
        names = {"eval_bleu_4": "eval_bleu-4", "eval_rouge_l": "eval_rouge-l"}
        if self.metric_for_best_model not in names:
            return {}
        generating = {"predict_with_generate": True, "max_new_tokens": self.eval_max_new_tokens, "do_sample": False}
        return {"metric_for_best_model": names[self.metric_for_best_model], **generating}
