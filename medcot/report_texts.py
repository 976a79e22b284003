"""The words of the report that are its own, in English and Chinese; what the verdict says comes from medcot/verdict_texts.py."""

from __future__ import annotations

import json
from functools import cache

from medcot.page import FILES
from medcot.sentences import Sentence
from medcot.verdict_texts import Language

TEXTS = {
    "title": Sentence("Report", "报告"),
    "other": Sentence("中文", "English"),
    "contents": Sentence("Contents", "目录"),
    "question": Sentence("Is the fine-tuned model better than its base?", "微调后的模型是否比基座更好？"),
    "base": Sentence("Base", "基座"),
    "tuned": Sentence("Fine-tune", "微调"),
    "difference": Sentence("Difference", "差异"),
    "scale": Sentence("points out of 100", "每 100 分"),
    "questions": Sentence("{n} questions", "{n} 道题"),
    "of_cases": Sentence("{n} questions from {cases} cases", "{n} 道题，来自 {cases} 个病例"),
    "could_see": Sentence("could have seen {mde} points", "可检出的最小差异 {mde} 分"),
    "no_primary": Sentence("The primary endpoint has no figure.", "主要终点没有数值。"),
    "not_subtracted": Sentence(
        "The arms were not measured alike, so nothing was subtracted.", "两个模型的测量条件不同，因此没有相减，也没有差异可示。"
    ),
    "next": Sentence("What to do next", "下一步"),
    "rests": Sentence("What it rests on", "依据"),
    "endpoint": Sentence("Primary endpoint, declared before", "主要终点（事先声明）"),
    "declared": Sentence("Declared before", "事先声明"),
    "declaration": Sentence(
        "tier {tier}: {min_items} or more clean questions; {confidence} % intervals; a difference of {margin} points would not matter; "
        "general ability may lose {forgetting} points in all and {floor} in any part, red flags {safety}.",
        "{tier} 级：未受污染的题不少于 {min_items} 道；{confidence} % 区间；{margin} 分的差异无关紧要；"
        "通用能力合计最多可损失 {forgetting} 分，其中每项最多 {floor} 分，危险信号最多 {safety} 分。",
    ),
    "valid": Sentence("Validity", "有效性"),
    "no_reason": Sentence("nothing speaks against reading it", "没有不可解读的理由"),
    "looks": Sentence("Looks at test", "测试集查看次数"),
    "lost": Sentence("What was lost", "失去了什么"),
    "state_shown": Sentence("kept", "保住"),
    "state_harm": Sentence("lost", "有损失"),
    "state_unproven": Sentence("not proven", "未证明"),
    "state_not_measured": Sentence("not measured", "未测量"),
    "all": Sentence("All differences", "全部差异"),
    "all_note": Sentence(
        "Fine-tune − base in points out of 100, paired by question; right of 0 is better. Bars are {level} % intervals. A shaded band is a "
        "difference that would not matter, a dashed line the most that may be lost, an arrow an interval that goes on, a ring a figure "
        "that is not to be read.",
        "微调 − 基座，以每 100 分计，按题配对；0 的右侧为更好。横线为 {level} % 区间，箭头表示区间超出图外；阴影为无关紧要的差异，"
        "虚线为最多容许的损失，空心圆为不可解读的数字。",
    ),
    "no_differences": Sentence("There are no differences to show.", "没有可显示的差异。"),
    "role_primary": Sentence("Decides", "决定结论"),
    "role_secondary": Sentence("Other medical knowledge", "其他医学知识"),
    "role_forgetting": Sentence("General ability, which must not be lost", "通用能力，不应损失"),
    "role_safety": Sentence("Safety rules, which may veto and never prove", "安全规则：可以否决，不能证明"),
    "role_benchmark": Sentence("By benchmark", "各基准"),
    "role_contaminated": Sentence("In the training data; counts for nothing", "出现在训练数据中；不计入结论"),
    "measure": Sentence("Measure", "项目"),
    "mde": Sentence("Could have seen", "可检出"),
    "won_lost": Sentence("{won} won, {lost} lost", "{won} 题变好，{lost} 题变差"),
    "faulty": Sentence("not to be read: {faults}", "不可解读：{faults}"),
    "likelihood": Sentence("Perplexity by segment", "各段困惑度"),
    "likelihood_note": Sentence(
        "How surprised each model is by a text it did not write; lower is less. Mostly a matter of style, so it decides nothing.",
        "模型对并非自己所写文本的意外程度，越低越不意外。它主要反映文风，因此不参与判定。",
    ),
    "no_likelihood": Sentence("No likelihood was compared.", "没有比较似然。"),
    "change": Sentence("Change", "变化"),
    "set_heldout": Sentence("Held-out rows", "留出数据"),
    "set_train": Sentence("Training rows", "训练数据"),
    "set_general": Sentence("General texts", "通用文本"),
    "segment_reasoning": Sentence("reasoning", "推理"),
    "segment_answer_given_gold": Sentence("answer, after the row's reasoning", "答案（给定该行的推理）"),
    "segment_answer_given_empty_think": Sentence("answer, without reasoning", "答案（不给推理）"),
    "segment_end": Sentence("end of the reply", "回答的结束"),
    "segment_text": Sentence("text", "文本"),
    "segment_all": Sentence("reasoning and answer", "推理与答案"),
    "heldout_minus_train": Sentence(
        "Over-fitting: change on held-out minus change on training rows, nats per token; above 0 is learnt by heart",
        "过拟合：留出数据与训练数据的变化之差（奈特/词元）；大于 0 表示在背诵",
    ),
    "kl": Sentence("Divergence from the base on general texts, nats per token", "在通用文本上与基座的偏离（奈特/词元）"),
    "top1": Sentence("General tokens where both predict the same, of 100", "通用文本中两者预测一致的词元，每 100 个"),
    "health": Sentence("Generation health", "生成健康"),
    "health_note": Sentence(
        "Replies to held-out questions, judged by rules that know no medicine; lower is better. Looping may veto, "
        "the rest decides nothing. Ring: base; dot: fine-tune.",
        "对留出问题的回答，由不懂医学的规则判断；越低越好。除循环可以否决外，均不参与判定。圆环为基座，圆点为微调。",
    ),
    "no_health": Sentence("No reply to a held-out question was generated.", "没有生成对留出问题的回答。"),
    "further_rates": Sentence("Kinds of failure and of loop", "失败与循环的细类"),
    "measures": Sentence("Length, terms and overlap: described, not judged", "长度、术语与重叠：只描述，不评判"),
    "training": Sentence("Training", "训练"),
    "no_training": Sentence(
        "There is no training log: the adapter was imported, or nothing was trained.", "没有训练日志：适配器是导入的，或者没有训练。"
    ),
    "curve_loss": Sentence("Loss, nats per supervised token", "损失（奈特/受监督词元）"),
    "curve_train": Sentence("training", "训练"),
    "curve_eval": Sentence("held-out (val)", "验证（val）"),
    "curve_learning_rate": Sentence("Learning rate", "学习率"),
    "curve_grad_norm": Sentence("Gradient norm before clipping", "裁剪前的梯度范数"),
    "step": Sentence("step {n}", "第 {n} 步"),
    "replies": Sentence("Replies side by side", "回答对照"),
    "replies_note": Sentence(
        "{shown} of {n} held-out questions, drawn by seed, the first reply of each model. Personal data is masked. Not chosen, and too few "
        "to judge by: for that, `medcot review export`.",
        "从 {n} 个留出问题中按种子抽取 {shown} 个，取每个模型的第一个回答；个人信息已遮盖。未经挑选，也太少，不足以评判："
        "请用 `medcot review export`。",
    ),
    "no_replies": Sentence("There is no reply to a held-out question.", "没有对留出问题的回答。"),
    "thought": Sentence("Thought, {n} characters", "思考过程，{n} 字"),
    "no_answer": Sentence("No answer.", "没有答案。"),
    "missing": Sentence("This model has no reply.", "该模型没有回答。"),
    "tokens": Sentence("{n} tokens", "{n} 个词元"),
    "items": Sentence("Where the models differ", "两个模型不同之处"),
    "items_note": Sentence(
        "Items that the fine-tune won or lost, drawn by seed; those that stand in the training data are among them, marked. Every item of "
        "both models: `data/verdict/items.parquet`.",
        "微调后变好或变差的题，按种子抽取；出现在训练数据中的题也在内，并有标记。两个模型的每一题见 `data/verdict/items.parquet`。",
    ),
    "no_items": Sentence("No item was compared.", "没有比较任何题。"),
    "same": Sentence("{n} the same", "{n} 题相同"),
    "won": Sentence("won", "变好"),
    "lost_item": Sentence("lost", "变差"),
    "item": Sentence("Item", "题"),
    "more": Sentence("and {n} more in `data/verdict/items.parquet`", "另有 {n} 题见 `data/verdict/items.parquet`"),
    "contaminated": Sentence("in training data", "在训练数据中"),
    "data": Sentence("Data and model", "数据与模型"),
    "stage": Sentence("Stage", "阶段"),
    "in": Sentence("In", "进入"),
    "out": Sentence("Out", "留下"),
    "taken": Sentence("Taken out, by rule", "按规则移除"),
    "made": Sentence("{n} made", "生成 {n} 行"),
    "nothing": Sentence("nothing", "无"),
    "others": Sentence("{n} by other rules", "其他规则 {n}"),
    "splits": Sentence("Of these: {train} train, {val} val, {test} test.", "其中：训练 {train}，验证 {val}，测试 {test}。"),
    "model": Sentence("Base model", "基座模型"),
    "model_hub": Sentence("{repo} at {revision} ({platform})", "{repo}，版本 {revision}（{platform}）"),
    "model_local": Sentence("a model directory of your own", "你自己的模型目录"),
    "model_demo": Sentence("the demonstration model, trained here from scratch", "演示模型，在本机从零训练"),
    "parameters": Sentence("Parameters", "参数量"),
    "licence": Sentence("Licence", "许可证"),
    "licence_demo": Sentence("none needed: it holds nothing of others and serves no purpose but showing", "无需：不含他人内容，只供演示"),
    "licence_unknown": Sentence("not stated: look it up before any use", "未注明：使用前请自行查明"),
    "hashes": Sentence("Hashes of everything that was measured", "所测一切的哈希"),
    "not": Sentence("What this does not say", "这不能说明什么"),
    "device": Sentence(
        "This is research software and no medical device. No model judged here is fit for diagnosis or treatment because of this report.",
        "本软件用于研究，不是医疗器械。任何模型都不会因为本报告而适用于诊断或治疗。",
    ),
}
LINKS = {
    "all": Sentence("Differences", "差异"),
    "likelihood": Sentence("Perplexity", "困惑度"),
    "health": Sentence("Health", "生成健康"),
    "training": Sentence("Training", "训练"),
    "replies": Sentence("Replies", "回答"),
    "items": Sentence("Items", "题目"),
    "data": Sentence("Data", "数据"),
    "not": Sentence("Limits", "局限"),
}
FAULTS = {
    "contamination_not_checked": Sentence("not compared with the training data", "未与训练数据比对"),
    "too_many_missing": Sentence("results are missing", "结果缺失"),
    "truncation_differs": Sentence("replies cut unequally", "截断比例不等"),
    "too_many_truncated": Sentence("too many replies cut", "截断太多"),
    "looping": Sentence("replies loop", "回答循环"),
}
RATES = {
    "failed": Sentence("fails in any way", "失败（任一种）"),
    "truncated": Sentence("cut by the length limit", "被长度上限截断"),
    "unclosed": Sentence("thought never closed", "思考未结束"),
    "nested": Sentence("thought within a thought", "思考嵌套"),
    "multiple": Sentence("more than one thought", "多段思考"),
    "empty": Sentence("no answer", "没有答案"),
    "loop": Sentence("loops", "陷入循环"),
    "loop_repeated": Sentence("loops: repeated phrases", "循环：重复片段"),
    "loop_compression": Sentence("loops: compresses too well", "循环：过易压缩"),
    "loop_tail": Sentence("loops: repeats to the end", "循环：末尾重复"),
    "contradiction": Sentence("contradicts its own thought", "与自身思考矛盾"),
    "language_drift": Sentence("in another language", "语言漂移"),
    "refusal": Sentence("refuses", "拒答"),
}
MEASURES = {
    "reasoning_ratio": Sentence("thought, length over the row's", "思考长度 / 原文"),
    "answer_ratio": Sentence("answer, length over the row's", "答案长度 / 原文"),
    "reasoning_script": Sentence("thought in the question's script", "思考与问题同一文字的占比"),
    "answer_script": Sentence("answer in the question's script", "答案与问题同一文字的占比"),
    "terms": Sentence("medical terms per 1,000 characters", "每千字医学术语"),
    "distinct_terms": Sentence("different medical terms in a reply", "每个回答中不同的医学术语数"),
    "mechanisms": Sentence("words of cause and mechanism per 1,000 characters", "每千字机制用语"),
    "distinct_1": Sentence("Distinct-1", "Distinct-1"),
    "distinct_2": Sentence("Distinct-2", "Distinct-2"),
    "bleu_4": Sentence("BLEU-4 against the row", "BLEU-4（对照原文）"),
    "chrf": Sentence("chrF against the row", "chrF（对照原文）"),
    "rouge_l": Sentence("ROUGE-L against the row", "ROUGE-L（对照原文）"),
}
STATUSES = {
    "truncated": Sentence("cut", "被截断"),
    "unclosed": Sentence("thought never closed", "思考未结束"),
    "empty": Sentence("empty", "空"),
    "unparseable": Sentence("unreadable", "无法解析"),
}
STAGES = {
    "download": Sentence("read", "读取"),
    "normalize": Sentence("normalise", "规范"),
    "dedup": Sentence("deduplicate", "去重"),
    "decontaminate": Sentence("decontaminate", "去污染"),
    "convert": Sentence("convert and split", "转换与划分"),
}


def say(name: str, language: Language, **values: object) -> str:
    """The words of this name, their places filled in."""
    text: str = getattr(TEXTS[name], language)
    return text.format(**values) if values else text


def word(table: dict[str, Sentence], name: str, language: Language) -> str:
    """A name in words; one that the table does not know is shown as it is."""
    return getattr(table[name], language) if name in table else name


@cache
def _rules() -> dict[str, dict[str, str]]:
    found: dict[str, dict[str, str]] = json.loads((FILES / "strings.json").read_text(encoding="utf-8"))
    return found


def rule_name(name: str, language: Language) -> str:
    """A rule of the data stages in the words of the curator's page; one that the page does not know by its name."""
    return _rules().get(f"rule.{name}", {}).get(language, name)
