"""What the quality rules of medcot/quality.py look for in one text: patterns, and three counts."""

from __future__ import annotations

import re

# Letters: longer than a term that is named again and again, shorter than a sentence.
WINDOW = 16
# Han characters and Latin words that a text needs before it has a language.
MIN_WORDS = 15
_HAN = re.compile("[\u3400-\u9fff\U00020000-\U0003ffff]+")
_LATIN = re.compile("[A-Za-z]{2,}")
_NOT_LETTERS = re.compile(r"[\W_]+")

_WORDS = (
    "略 略过 同上 见上 见上文 如上 如上所述 见解析 见答案 暂无 暂无答案 无答案 没有答案 待补充 待完善 答案 解析 答 回答 "
    "null nan na undefined todo tbd answer seeabove sameasabove noanswer notavailable notapplicable placeholder"
)
STAND_INS = frozenset(_WORDS.split())

# In the first person, or after an apology: 现有信息无法给出明确诊断 and "I cannot give aspirin to a child" are medicine.
_DECLINE = "(?:提供|给出|回答|回应|协助|做出|满足|处理)"
_OBJECT = "(?:医疗建议|医学建议|专业建议|诊断|处方|答案|回答|帮助|信息|问题|请求|要求|服务|评价|评分)"
REFUSAL = re.compile(
    r"^.{0,40}?(?:我(?:们|目前|暂时|并|也)?|我(?:是|作为)[^，。]{0,16}，?|作为[^，。]{0,16}(?:模型|助手|智能)，?)"
    rf"(?:无法|不能|没有?办法)(?:直接|为您|为你)?{_DECLINE}.{{0,20}}?{_OBJECT}"
    rf"|^.{{0,20}}?(?:抱歉|对不起|不好意思)[，,！! ].{{0,24}}?(?:无法|不能|不便|没法)(?:为您|为你)?(?:{_DECLINE}|帮)"
    r"|^.{0,80}?\b(?:(?:sorry|apologi[sz]e)\b.{0,20}?\b(?:can't|can’t|cannot|can not|unable|not able)\b"
    r"|I(?:(?:'m|’m| am) (?:not able|unable) to| can't| can’t| cannot| can not| won't| won’t)"
    r" (?:answer|assist|help you|help with|comply|fulfil|diagnose you|(?:provide|give|offer)(?: you)?(?: with)?"
    r"(?: an?| any| specific| personal)* (?:medical|professional|advice|diagnos|answer|help|information)))",
    re.IGNORECASE | re.DOTALL,
)
# These begin with literal characters, not with a boundary, so that a search may skip to them.
BOILERPLATE = re.compile(
    r"作为(?:一个|一名|一款|一种)?(?:大型|大)?(?:AI|人工智能|语言)(?:语言)?(?:大?模型|助手|医生助手|聊天机器人|程序)"
    r"|我(?:只|仅仅)?是(?:一个|一名|一款|由)?(?:大型|大)?(?:AI|人工智能|语言模型|聊天机器人)"
    r"|我的(?:训练数据|知识截止)|由(?:OpenAI|DeepSeek|百度|阿里(?:云|巴巴)?|智谱)(?:公司)?(?:训练|开发|研发)"
    r"|(?:as(?<![a-z]as)|As|I'm|I’m|I am)(?: just| only)? an? (?:AI|artificial intelligence|large language|language)(?: language)?"
    r"(?: model| assistant| chatbot|, I )|my (?:training data|knowledge cut-?off)|(?:developed|trained) by OpenAI"
)
# UTF-8 that was read as Latin-1 or as Windows-1252 (Ã©, â€™, ä½ å¥½), as GBK (锛屽, 銆傚), and what is left where text was lost.
_CONTINUATION = "\u0080-\u00bf€‚ƒ„…†‡ˆ‰Š‹Œ‘’“”•–—˜™š›œžŸŽ"
MOJIBAKE = re.compile(
    f"Ã[{_CONTINUATION}]|Â[\u0080-\u00bf]|[ÎÏ][\u0080-\u00bf]|â[€„‰†…ˆ‚]|ã€|ï¼|ï»¿|(?:[ä-é][{_CONTINUATION}]{{1,2}} ?){{2,}}"
    "|锟斤拷|锟斤|烫烫烫|屯屯屯|銆[\u4e00-\u9fff]|锛[\u4e00-\u9fff]"
)
MISSING_IMAGE = re.compile(
    r"\[img|<img|!\[[^\]\n]{0,200}\]\(|\.(?:gif|jpe?g|png|bmp)(?![a-z])"
    r"|如[下上左右]?图(?:所示|\d|[，,。；：（( ]|$)|见[下上附]?图(?![像形])|下图(?![像形])"
    r"|(?:shown|seen|depicted|illustrated) in the (?:\w+ )?(?:figure|image|picture|photo)s?(?![a-z])"
    r"|(?:figure|image|picture) (?:below|above)(?![a-z])"
)
LOOKALIKE = re.compile(
    r"\[/?INST\]|<</?SYS>>|</?s>|<(?:bos|eos|pad|unk|start_of_turn|end_of_turn|reserved_\w+)>|\[(?:CLS|SEP|PAD|UNK|MASK|gMASK)\]"
    r"|</?(?:answer|reasoning|thinking|reflection|output|tool)>|<\||\|>"
    r"|^#{2,3} ?(?:Instruction|Response|Input|Output|Human|Assistant)\s*[:：]"
    r"|^(?:Human|Assistant|User|System)\s*[:：]",
    re.MULTILINE,
)
# Not digits, lines and bullets: those are tables and blanks to fill in.
_RUN = re.compile(r"([^\s\d_=*.·…~#|+\-—–─\\/$])\1{3,}")
_FINAL = tuple("。！？；.!?;…)）】]」』”’\"'》|`$～~")
_MID_SENTENCE = re.compile(
    r"(?:[，、,：:（(\[【「《“]|(?:因为|由于|所以|因此|但是|而且|并且|以及|或者|如果|为了|例如|比如|包括)"
    r"|\b(?:and|or|but|because|the|of|with|that|which|such as|due to|if|when|an)|\n\s*(?:\d{1,2}[.、)）]|[-*•]))$"
)
_MARKS = re.compile(r"[()（）\[\]［］【】〔〕{}｛｝《》「」『』“”]")
_PAIRS = {"(": ")", "[": "]", "{": "}", "《": "》", "「": "」", "『": "』", "“": "”"}
_SAME = str.maketrans("（）［］【】〔〕｛｝", "()[][][]{}")
_NUMBERING = re.compile(r"(?:^|[\s，。；：;:,、.!?！？“*])(?:\d{1,3}|[A-Za-z]|[ivxIVX]{2,4}|[一二三四五六七八九十]{1,3}|[①-⑳])$|[:;]-?$")
# Intervals such as [0, 5), and LaTeX's \left[ … \right).
_NO_PAIR = re.compile(r"[\[(]\s*[-\d.∞a-z]+\s*[,，]\s*[-+\d.∞a-z]+\s*[\])]|\\(?:left|right)\s*[\[\]().|]")


def letters(text: str) -> str:
    """A text's letters and digits, in lower case."""
    return _NOT_LETTERS.sub("", text).lower()


def longest_run(text: str) -> int:
    """How often the most repeated character stands in a row, for runs of four and more; else 0."""
    return max((len(match.group()) for match in _RUN.finditer(text)), default=0)


def repeated_share(text: str) -> float:
    """The share of the 16-letter windows of a text's letters that stand earlier in it too; 0 for fewer letters than two windows."""
    said = letters(text)  # lines and tables drawn with marks repeat by nature
    count = len(said) - WINDOW + 1
    return 1 - len({said[i : i + WINDOW] for i in range(count)}) / count if count > WINDOW else 0.0


def han_share(text: str) -> float | None:
    """The share of Han characters among Han characters and Latin words; None for a text of fewer than 15."""
    han = sum(map(len, _HAN.findall(text)))
    total = han + len(_LATIN.findall(text))
    return han / total if total >= MIN_WORDS else None


def ends(text: str) -> bool:
    """Whether a text has final punctuation, Markdown's emphasis aside."""
    return text.rstrip("*_ \n").endswith(_FINAL)


def stops_within(text: str) -> bool:
    """Whether a text ends in a comma, a colon, an opening bracket, a conjunction, or the mark of an empty list item."""
    return bool(_MID_SENTENCE.search(text.rstrip("*_ ")[-40:]))


def unmatched_marks(text: str) -> list[str]:
    """The brackets and quotation marks without a partner; width and nesting are free, `1)` and `a）` are numbering."""
    text = _NO_PAIR.sub("", text)
    marks = [(match.start(), match.group().translate(_SAME)) for match in _MARKS.finditer(text)]
    unmatched = []
    for opening, closing in _PAIRS.items():
        depth = 0
        for position, mark in marks:
            if mark == opening:
                depth += 1
            elif mark == closing and depth:
                depth -= 1
            elif mark == closing and not _NUMBERING.search(text[max(0, position - 5) : position]):
                unmatched.append(closing)
        unmatched += [opening] * depth
    return unmatched
