"""What an event of the ledger means, as a sentence for a person, in English and in Chinese.

A sentence is a frame for the action, filled with what the rule stands for; a rule without words of its own is named as it is, so that
a new rule needs no line here to be told correctly.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from medcot.errors import printable
from medcot.pii import masked


class Sentence(NamedTuple):
    """One thing said in both languages."""

    en: str
    zh: str


FRAMES = {
    "synthetic": Sentence("Made from {related_id} by {source}.", "由 {source} 从 {related_id} 生成。"),
    "read": Sentence(
        "Read from {source}, row {source_row} (the first is 0), as {rule} ({detail}).",
        "读自 {source} 第 {source_row} 行（从 0 起），{rule}（{detail}）。",
    ),
    "changed": Sentence("{Why}: {detail}.", "{why}：{detail}。"),
    "flagged": Sentence("Flagged, and stays in: {why} ({detail}).", "已标记，仍保留：{why}（{detail}）。"),
    "conflict": Sentence(
        "Looks like {related_id} (similarity {similarity}) but states another fact ({detail}); this rule removes neither.",
        "与 {related_id} 相似（相似度 {similarity}），但所述事实不同（{detail}）；此规则两条都不移除。",
    ),
    "removed": Sentence("Removed: {why} ({detail}).", "已移除：{why}（{detail}）。"),
    "refused": Sentence("Refused: {why} ({detail}).", "已拒收：{why}（{detail}）。"),
    "kept": Sentence("Kept: goes to {split}, {num_tokens} tokens long.", "已保留：归入 {split}，长 {num_tokens} 个词元。"),
}
# What a rule stands for.
REASONS = {
    "max_samples": Sentence("not among the rows that download.max_samples asks for", "不在 download.max_samples 抽取的行之内"),
    "curator": Sentence("a curator decided so", "人工审核的决定"),
    # text rules
    "bom": Sentence("a byte order mark at the start went", "去掉开头的字节顺序标记"),
    "newlines": Sentence("line ends became \\n", "换行统一为 \\n"),
    "invisible": Sentence("invisible characters went", "去掉不可见字符"),
    "width": Sentence("full-width digits, letters and signs became half-width", "全角数字、字母和符号改为半角"),
    "nfc": Sentence("characters were composed (NFC, never NFKC)", "字符按 NFC 合成（从不用 NFKC）"),
    "spaces": Sentence("unusual spaces became plain ones", "特殊空格改为普通空格"),
    "trailing_spaces": Sentence("spaces at the ends of lines went", "去掉行尾空格"),
    "blank_lines": Sentence("more than two blank lines became two", "两行以上的空行缩为两行"),
    "strip": Sentence("blank space around the text went", "去掉首尾空白"),
    "lost_superscript": Sentence("a power of ten lost its superscript before it came here", "十的幂在来源处已丢失上标"),
    # refusals of normalize
    "invalid_json": Sentence("the row is not valid JSON", "该行不是有效的 JSON"),
    "invalid_utf8": Sentence("the row is not valid UTF-8", "该行不是有效的 UTF-8"),
    "nan_literal": Sentence("the row holds NaN or Infinity, which JSON does not have", "该行含 JSON 所没有的 NaN 或 Infinity"),
    "duplicate_key": Sentence("the row has one key twice", "该行有重复的键"),
    "not_object": Sentence("the row is no object with named fields", "该行不是带字段名的对象"),
    "lone_surrogate": Sentence("the row holds half a character", "该行含半个字符（孤立代理项）"),
    "too_deep": Sentence("the row is nested too deeply", "该行嵌套过深"),
    "row_too_long": Sentence("the row is too long", "该行过长"),
    "ragged_row": Sentence("the row has more or fewer cells than the header", "该行的单元格数与表头不符"),
    "think_block": Sentence("the answer does not begin with one whole think block", "答案开头没有一个完整的思考块"),
    "missing_field": Sentence("a field is missing", "缺少字段"),
    "not_text": Sentence("a field is not text", "字段不是文本"),
    "empty_field": Sentence("a field has no text", "字段没有文本"),
    "control_character": Sentence("a control character", "含控制字符"),
    "control_token": Sentence("a control token of a chat template", "含对话模板的控制标记"),
    "answer_equals_question": Sentence("the answer repeats the question", "答案与问题相同"),
    "answer_equals_reasoning": Sentence("the answer repeats the reasoning", "答案与推理相同"),
    "pii_review": Sentence("it may hold personal data; a person should look", "可能含个人信息，请人工查看"),
    # quality
    "quality_question_length": Sentence("the question is very short or very long", "问题过短或过长"),
    "quality_reasoning_length": Sentence("the reasoning is very short or very long", "推理过短或过长"),
    "quality_answer_length": Sentence("the answer is very short or very long", "答案过短或过长"),
    "quality_no_content": Sentence("a field says nothing", "有字段没有实际内容"),
    "quality_answer_copy": Sentence("one field repeats another", "一个字段重复另一个字段"),
    "quality_near_copy": Sentence("one field nearly repeats another", "一个字段几乎重复另一个字段"),
    "quality_refusal": Sentence("the answer refuses to answer", "答案拒绝作答"),
    "quality_boilerplate": Sentence("a language model speaks of itself", "语言模型在谈论自己"),
    "quality_char_run": Sentence("one character stands there over and over", "同一字符连续重复"),
    "quality_repetition": Sentence("passages stand there over and over", "段落反复出现"),
    "quality_mojibake": Sentence("the text was decoded with the wrong character set", "文本以错误的字符集解码"),
    "quality_language": Sentence("the fields are in different languages", "各字段的语言不同"),
    "quality_truncated": Sentence("a text stops within a sentence", "文本在句中中断"),
    "quality_unbalanced": Sentence("brackets or quotation marks lack their partner", "括号或引号不成对"),
    "quality_missing_image": Sentence("it refers to a picture that is not there", "提到并不存在的图片"),
    "quality_control_lookalike": Sentence("it holds marks of another model's chat template", "含其他模型对话模板的标记"),
    # dedup and decontaminate
    "exact_copy": Sentence(
        "says what {related_id} says, but for case, width, spaces and punctuation", "与 {related_id} 相同，不计大小写、全半角、空格和标点"
    ),
    "exact_question": Sentence(
        "asks what {related_id} asks, but for case, width, spaces and punctuation",
        "问题与 {related_id} 相同，不计大小写、全半角、空格和标点",
    ),
    "near_duplicate": Sentence(
        "nearly the same as {related_id}, which stays; similarity {similarity}", "与保留的 {related_id} 几乎相同，相似度 {similarity}"
    ),
    "contaminated": Sentence("it gives away the benchmark item {related_id}", "泄露评测题 {related_id}"),
    "contaminated_cluster": Sentence(
        "near-duplicate of {related_id}, which gives away a benchmark item", "与泄露评测题的 {related_id} 近似重复"
    ),
    # convert
    "cutoff_len": Sentence("longer than model.cutoff_len allows; rows are never cut", "超过 model.cutoff_len；从不截断"),
    "source_cap": Sentence("its source has more rows than the cap allows", "其来源的行数超过上限"),
    "class_balance": Sentence("its class has more rows than the balance allows", "其类别的行数超过平衡上限"),
    "synthetic_copy": Sentence("made from {related_id}, it says nothing new", "由 {related_id} 生成，但没有变化"),
    "synthetic_fact": Sentence("made from {related_id}, it states another fact", "由 {related_id} 生成，但所述事实不同"),
    "synthetic_split": Sentence(
        "made from {related_id}, its question belongs to another split than train", "由 {related_id} 生成，但其问题不属于 train"
    ),
    "synthetic_near": Sentence(
        "made from {related_id}, it is near a row of val or test", "由 {related_id} 生成，但与 val 或 test 中的行相近"
    ),
    "bridges_splits": Sentence("near-duplicate of {related_id}, which is in another split", "与另一划分中的 {related_id} 近似重复"),
    "control_token_id": Sentence("the tokenizer reads a control token in the text", "分词器在文本中读出控制标记"),
    "unknown_token_id": Sentence("a token id lies beyond the vocabulary", "词元编号超出词表"),
    "prompt_mismatch": Sentence("label audit: the prompt does not decode to itself", "标签审核：提示解码后与原文不符"),
    "target_mismatch": Sentence("label audit: the target does not decode to itself", "标签审核：目标解码后与原文不符"),
    "mask_mismatch": Sentence("label audit: the labels do not cover the target alone", "标签审核：标签没有恰好覆盖目标"),
    "eos_mismatch": Sentence("label audit: the row does not end as its template ends", "标签审核：结尾与模板不符"),
}
_GROUPS = {
    ("changed", "pii_"): Sentence("personal data was masked", "个人信息已遮盖"),
    ("", "pii_"): Sentence("it holds personal data, {rule}", "含个人信息，{rule}"),
    ("", "quality_"): Sentence("rule {rule} of quality", "质量规则 {rule}"),
}


def show(event: Mapping[str, Any]) -> dict[str, Any]:
    """A row of the ledger as it may be shown: its detail masked, and without control characters."""
    return {**event, "detail": event["detail"] and printable(masked(event["detail"]))}


def sentence(event: Mapping[str, Any]) -> Sentence:
    """Say what a row of the ledger means."""
    values = {name: "" if value is None else printable(str(value)) for name, value in show(event).items()}
    values["similarity"] = "" if event["similarity"] is None else f"{event['similarity']:.2f}"
    frame = (
        FRAMES.get(event["rule"]) or FRAMES.get(event["action"]) or Sentence("{action}: {why} ({detail}).", "{action}：{why}（{detail}）。")
    )
    return Sentence(*(_fill(frame[language], _reason(event)[language], values) for language in (0, 1)))


def _fill(frame: str, reason: str, values: dict[str, str]) -> str:
    why = reason.format(**values)
    text = frame.format(**values, why=why, Why=why[:1].upper() + why[1:])
    return text.replace(" ()", "").replace("（）", "").replace(": .", ".").replace("：。", "。")  # an event without detail


def _reason(event: Mapping[str, Any]) -> Sentence:
    groups = (words for (of, prefix), words in _GROUPS.items() if event["rule"].startswith(prefix) and of in ("", event["action"]))
    return REASONS.get(event["rule"]) or next(groups, Sentence("rule {rule}", "规则 {rule}"))
