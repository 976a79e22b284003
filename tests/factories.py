"""Small makers of what tests need: tokenizer directories with the real control tokens, trained in memory."""

from __future__ import annotations

import json
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

# The control tokens in the order of their ids, as Qwen3 and DeepSeek-R1-Distill-Qwen have them.
QWEN3_CONTROLS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<tool_call>", "</tool_call>", "<think>", "</think>")
R1_CONTROLS = (
    "<｜end▁of▁sentence｜>",
    "<｜User｜>",
    "<｜Assistant｜>",
    "<｜begin▁of▁sentence｜>",
    "<|EOT|>",
    "<think>",
    "</think>",
)
_NOT_SPECIAL = {"<tool_call>", "</tool_call>", "<think>", "</think>", "<｜User｜>", "<｜Assistant｜>", "<|EOT|>"}
_CORPUS = (
    "患者男，28岁，胸痛三天，考虑急性心肌梗死。先看心电图，再查肌钙蛋白。",
    "儿童发热伴咳嗽，考虑社区获得性肺炎，给予阿莫西林每日三次。",
    "A 64-year-old woman with chest pain should have an ECG first.",
    "The likely diagnosis is community-acquired pneumonia; start amoxicillin.",
    "先问病史。\n\n再查体。\n最后检查。\n\nFirst.\n\nThen.\n" * 3,  # newlines merge with each other and with a full stop, as in Qwen
)
_QWEN_SPLIT = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


def byte_level_bpe(controls: tuple[str, ...] = QWEN3_CONTROLS, vocab_size: int = 420) -> Tokenizer:
    """Train a byte-level BPE with Qwen's pre-tokenizer; the control tokens come after the vocabulary, as on the hub."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    split = pre_tokenizers.Split(Regex(_QWEN_SPLIT), behavior="isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False, special_tokens=[]
    )
    tokenizer.train_from_iterator(_CORPUS, trainer)
    for token in controls:
        added = _added(token)
        (tokenizer.add_tokens if token in _NOT_SPECIAL else tokenizer.add_special_tokens)([added])
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    return tokenizer


def _added(token: str):  # type: ignore[no-untyped-def]
    from tokenizers import AddedToken

    return AddedToken(token, normalized=False, special=token not in _NOT_SPECIAL)


def write_qwen3_tokenizer(directory: Path, vocab_size: int = 420) -> Path:
    """Write a tokenizer directory like Qwen3's: ChatML and think tokens, EOS `<|im_end|>`, no BOS."""
    config = {
        "tokenizer_class": "Qwen2Tokenizer",
        "add_bos_token": False,
        "add_prefix_space": False,
        "bos_token": None,
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "unk_token": None,
        "clean_up_tokenization_spaces": False,
        "model_max_length": 131072,
    }
    return _write(directory, byte_level_bpe(QWEN3_CONTROLS, vocab_size), config)


def write_r1_tokenizer(directory: Path, vocab_size: int = 420) -> Path:
    """Write a tokenizer directory like an R1 distill's: LlamaTokenizerFast over a byte-level vocabulary, BOS added by default."""
    tokenizer = byte_level_bpe(R1_CONTROLS, vocab_size)
    bos = "<｜begin▁of▁sentence｜>"
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{bos} $A", pair=f"{bos} $A {bos} $B", special_tokens=[(bos, tokenizer.token_to_id(bos))]
    )
    as_object = {"__type": "AddedToken", "lstrip": False, "normalized": True, "rstrip": False, "single_word": False}
    config = {
        "tokenizer_class": "LlamaTokenizerFast",
        "add_bos_token": True,
        "add_eos_token": False,
        "bos_token": {**as_object, "content": bos},
        "eos_token": {**as_object, "content": "<｜end▁of▁sentence｜>"},
        "pad_token": {**as_object, "content": "<｜end▁of▁sentence｜>"},
        "unk_token": None,
        "legacy": True,
        "sp_model_kwargs": {},
        "clean_up_tokenization_spaces": False,
        "model_max_length": 16384,
    }
    return _write(directory, tokenizer, config)


def _write(directory: Path, tokenizer: Tokenizer, config: dict[str, object]) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(directory / "tokenizer.json"))
    (directory / "tokenizer_config.json").write_text(json.dumps(config, ensure_ascii=False, indent=2), encoding="utf-8")
    return directory
