"""The label audit: proof, row by row and before any training, that the labels hold what should be learnt and nothing else.

A row that fails is refused with a code and goes to the ledger; nothing is repaired. When every row fails, the template does
not fit the tokenizer, and that is an error of the params.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple, Protocol

from medcot.errors import DataError
from medcot.template import MASK, Encoded, Template, check_template, encode, encode_prompt, eos_id, render_prompt, render_target
from medcot.tokenizer import ChatTokenizer

CODES = ("control_token_id", "unknown_token_id", "prompt_mismatch", "target_mismatch", "mask_mismatch", "eos_mismatch", "too_long")


class Fields(Protocol):
    """What the audit reads of a row."""

    @property
    def question(self) -> str: ...
    @property
    def reasoning(self) -> str: ...
    @property
    def answer(self) -> str: ...


class Refusal(NamedTuple):
    """Why a row may not be trained on."""

    code: str
    detail: str


class Auditor:
    """Audits rows of one template, tokenizer and system prompt.

    Raises DataError at once when the template needs control tokens that the tokenizer lacks, or when the system prompt holds one.
    """

    def __init__(self, tok: ChatTokenizer, template: Template, system: str, cutoff_len: int) -> None:
        check_template(tok, template)
        self.tok, self.template, self.system, self.cutoff_len = tok, template, system, cutoff_len
        self.vocab_size, self.control_ids = len(tok), tok.control_ids
        in_system = self._controls(tok.encode(system))
        if in_system:
            cause = "the system prompt holds a control token of the tokenizer"
            raise DataError("params.yaml: model.system", cause, "write it without", got=tok.decode(in_system[:1]))
        self.scaffold = self._controls(encode(tok, template, "", "", "", system).input_ids)

    def _controls(self, ids: Iterable[int]) -> list[int]:
        return [i for i in ids if i in self.control_ids]

    def check(self, row: Fields, encoded: Encoded) -> Refusal | None:
        """Return why the row is refused, or None; the checks run in the order of CODES."""
        return self._check_ids(row, encoded) or self._check_prompt(row, encoded) or self._check_labels(row, encoded)

    def _check_ids(self, row: Fields, encoded: Encoded) -> Refusal | None:
        if self._controls(encoded.input_ids) != self.scaffold:
            return Refusal("control_token_id", self._find_control(row))
        if len(self.tok) != self.vocab_size or max(encoded.input_ids) >= self.vocab_size:
            return Refusal("unknown_token_id", f"id {max(encoded.input_ids)} in a vocabulary of {self.vocab_size}, {len(self.tok)} now")
        return None

    def _find_control(self, row: Fields) -> str:
        for name in ("question", "reasoning", "answer"):
            found = self._controls(self.tok.encode(getattr(row, name)))
            if found:
                return f"{name}: {self.tok.decode(found[:1])}"
        return "control ids are not those of the template"

    def _check_prompt(self, row: Fields, encoded: Encoded) -> Refusal | None:
        inference = encode_prompt(self.tok, self.template, row.question, self.system, thinking=bool(row.reasoning))
        if encoded.input_ids[: encoded.prompt_len + encoded.prefill_len] != inference:
            return Refusal("prompt_mismatch", "prompt and prefill are other ids than the inference prompt")
        expected = render_prompt(self.template, row.question, self.system)
        return _compare("prompt_mismatch", self.tok.decode(encoded.input_ids[: encoded.prompt_len]), expected)

    def _check_labels(self, row: Fields, encoded: Encoded) -> Refusal | None:
        supervised = encoded.input_ids[encoded.prompt_len :]
        target = render_target(row.reasoning, row.answer)
        if target.count("<think>") != 1 or target.count("</think>") != 1:
            return Refusal("target_mismatch", "the text itself holds a think tag")
        mismatch = _compare("target_mismatch", self.tok.decode(supervised[:-1]), target)
        if mismatch:
            return mismatch
        if encoded.labels != [MASK] * encoded.prompt_len + supervised:
            return Refusal("mask_mismatch", "labels are not the prompt masked and the response in full")
        end = eos_id(self.tok, self.template)
        if supervised[-1] != end or supervised.count(end) != 1:
            return Refusal("eos_mismatch", "EOS is not the last supervised token, once")
        if len(encoded.input_ids) > self.cutoff_len:
            return Refusal("too_long", f"{len(encoded.input_ids)} tokens, cutoff_len {self.cutoff_len}")
        return None


def _compare(code: str, text: str, expected: str) -> Refusal | None:
    if text == expected:
        return None
    at = next((i for i, (a, b) in enumerate(zip(text, expected, strict=False)) if a != b), min(len(text), len(expected)))
    return Refusal(code, f"decodes to another text from character {at} on")


def check_not_all_refused(num_rows: int, refusals: Iterable[Refusal], template: str, place: str, evidence: str) -> None:
    """Tell a bad row from a bad pairing: when no row passed, the template and the tokenizer do not fit.

    place     what the tokenizer was read from
    evidence  the file that names every refusal. Raises DataError.
    """
    found = list(refusals)
    if found and len(found) == num_rows:
        cause = f"the label audit refused all {num_rows} rows, so template {template} and this tokenizer do not fit"
        remedy = f"set model.template to the one the model was trained with, on a byte-level tokenizer; {evidence} names each row"
        raise DataError(place, cause, remedy, got=f"{found[0].code} ({found[0].detail})")
