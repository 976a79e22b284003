"""What two typings of one medical text may write differently, folded: signs, units, numerals, scanned digits, the exam's own words.

Everything here works on lower-case NFKC text and serves the matching key alone; it is never written out as data.
"""

from __future__ import annotations

import re

_STRAY_CARET = re.compile(r"(?<![0-9)])\^")
_PLUS_MINUS = re.compile(r"\+\s?/\s?-")
_BETWEEN_NUMBERS = re.compile(r"(?<=[0-9])(?:\s*([/x×])\s*|-+|\s+-+\s+)(?=[0-9])")
_THOUSANDS = re.compile(r"(?<![0-9.,])[0-9]{1,3}(?:,[0-9]{3})+(?![0-9,])")
_MINUS = re.compile(r"(?<=\()\s*-\s*(?=\))|(?<![0-9-])-(?=[0-9])|(?<=[a-z0-9)])-(?=[\s,;:)、。/]|$)")
_DIGIT_VALUES = {
    char: value for value, chars in enumerate(("零〇", "一", "二两", "三", "四", "五", "六", "七", "八", "九")) for char in chars
}
_POWERS = {"十": 10, "百": 100, "千": 1000, "万": 10_000}
# 一 before 名, 位, 例 or 个 alone is an article and stays as it is.
_NUMERAL = re.compile(r"[零〇一二两三四五六七八九十百千万]+(?=年|岁|天|周|日(?!咳)|个?月|个?小时|分钟|秒|次(?!性)|[片粒支滴倍级期型度])")
_ENGLISH = "one two three four five six seven eight nine ten"
_ENGLISH_VALUES = {word: str(value) for value, word in enumerate(_ENGLISH.split(), 1)}
_ENGLISH_NUMERAL = re.compile(rf"(?<![a-z])({'|'.join(_ENGLISH_VALUES)})(?=[\s-](?:hour|day|week|month|year|minute|time)s?(?![a-z]))")
# Ⅱ型 is 2型, and so a number for the guard.
_ROMAN = re.compile(r"(?<![a-z0-9])(i{1,3}|iv|v)\s?(?=[型级度期])")
_ROMAN_VALUES = {"i": "1", "ii": "2", "iii": "3", "iv": "4", "v": "5"}
_AFTER_NUMBER = {
    "mg": r"毫克|milligrams?", "ug": r"微克|mcg|micrograms?", "kg": r"千克|公斤|kilograms?", "g": r"克(?![氏隆罗拉林雷])|grams?",
    "ml": r"毫升|millilit(?:er|re)s?", "l": r"升(?![高至到压])|lit(?:er|re)s?", "cm": r"厘米|公分", "mmhg": r"毫米汞柱", "mm": r"毫米",
    "kpa": r"千帕", "℃": "摄氏度", "h": r"个?小时|hours?|hrs?", "min": r"分钟|minutes?|mins?", "d": r"天|日|days?",
    "week": r"weeks?|wks?", "month": r"months?", "year": r"years?|yrs?",
}  # fmt: skip
_AFTER_SLASH = {"min": r"分钟?|minutes?", "h": r"小时|hours?|hr", "d": r"天|日|days?", "ml": r"毫升", "l": r"升"}
_UNIT_AFTER_NUMBER = re.compile(rf"(?<=[0-9])\s*(?:{'|'.join(f'({spelling})' for spelling in _AFTER_NUMBER.values())})(?![a-wyz])")
_UNIT_AFTER_SLASH = re.compile(rf"/\s*(?:{'|'.join(f'({spelling})' for spelling in _AFTER_SLASH.values())})(?![a-z])")
_UNIT_APART = re.compile(r"(?<=[0-9])\s+(?=(?:[mukn]?g|[mud]?l|[mcn]?m|mmhg|kpa|mmol|umol|iu|u|h|min|d|week|month|year|kg|bpm)(?![a-z]))")
_LENGTHS = re.compile(r"(?<=[0-9])(cm|mm)\s?[x×]\s?(?=[0-9])")
_LENGTHS_EACH = re.compile(r"(?<=[0-9])(cm|mm)×(?=[0-9.]+(?:\1|×[0-9.]+\1))")  # 3cm×4cm is 3×4cm
_PULSE = re.compile(r"(?<=[0-9])\s?(?:bpm|beats?\s?(?:per\s|/)\s?min(?:ute)?)(?![a-z])")
_FEVER = re.compile(r"(?<![0-9.])((?:3[4-9]|4[0-2])(?:\.[0-9])?)\s?(?:度|c(?![a-z0-9]))")  # 38.5度, 38.5 C
_YEAR_OLD = re.compile(r"(?<=[0-9])[\s-]*(?:years?|yrs?)[\s-]*old(?![a-z])|(?<=[0-9])[\s-]*y[./]?o(?![a-z])\.?")
_TYPE = re.compile(r"(?<=type )(i{1,3}|iv)(?![a-z0-9])")
# 3月 and 3个月 are one age; 每分钟120次 is 120次/min.
_MONTHS = re.compile(r"(?<=[0-9])\s?个(?=月)")
_PER_MINUTE = re.compile(r"每分钟?\s?([0-9]+(?:-[0-9]+)?)\s?次")
# A cell count whose superscript was lost: ×109/L can only be ×10⁹/L. 10的9次方 is spelt out.
_LOST_EXPONENT = re.compile(r"(?<=×10)(3|6|9|1[0-2])(?=/l)")
_SPELT_EXPONENT = re.compile(r"(?<=10)\s?的\s?([0-9]+)\s?次方")
# Scanners read the letter o for a zero inside a number, and l for a one before a decimal point.
_SCANNED_ZERO = re.compile(r"(?<=[0-9])o(?=[0-9.]|[mku]?g(?![a-z])|[mc]m(?![a-z])|ml(?![a-z])|[%×岁次天])|(?<=[0-9]\.)o(?![a-z])")
_SCANNED_ONE = re.compile(r"(?<![a-z0-9])[l|](?=\.[0-9])")
# Words that exams use alike; the first of a group stands for all. None of them tells one case from another.
_ALIKE = """
    患者/病人/病员 患儿/病儿 药/药物 男/男性 女/女性 查体/体格检查/体检
    妇检/妇科检查 关于/有关 每天/每日 描述/叙述/表述/陈述/说法/论述 其他/其它 水肿/浮肿 啰音/罗音
    白细胞/白细胞计数/白细胞数 红细胞/红细胞计数/红细胞数 血小板/血小板计数 红细胞沉降率/血沉 革兰/革兰氏 肌内注射/肌注 静脉滴注/静滴
    静脉注射/静注 心肌梗死/心肌梗塞 脑梗死/脑梗塞 剖宫产/剖腹产 最佳/最恰当/最合适/最适宜/最适当/最好 最可能/最有可能 原因/病因
    机制/机理 方法/措施/办法/方式 处理/处置 特点/特征 根据/依照/按照/依据 b超/b型超声波/b型超声 高血压/高血压病 史/病史 消除/清除
    适应症/适应证 禁忌症/禁忌证 综合征/综合症 症状/证状 体征/体症 未见/末见 未闻/末闻 未触/末触 未婚/末婚 未育/末育 末次/未次 末梢/未梢
    末期/未期 双肺/两肺 双侧/两侧 双下肢/两下肢 双上肢/两上肢 双手/两手 双眼/两眼 双耳/两耳"""
_WORDS = {spelling: group.split("/")[0] for group in _ALIKE.split() for spelling in group.split("/")[1:]}
_WORD = re.compile("|".join(_WORDS))
# Age and sex come in either order: 女，25岁 and 25岁女性.
_SEX_AND_AGE = re.compile(r"([男女])(孩|婴|童|患者|患儿)?[,、:;。\s]{0,2}([0-9]+(?:岁半?|个?月|d))")
_AGE_OF = re.compile(r"(?<=[0-9])(岁半?|个?月|d)的(?=[男女])")
# 女，20。 is an age, too.
_BARE_AGE = re.compile(r"(?<![\u4e00-\u9fff])([男女],?\s?[1-9]?[0-9])(?=[,。;]|\.(?![0-9]))")
# The number of an item before it: 12. or (129-130题共用题干).
_ITEM = re.compile(r"\s*(?:\(?[0-9]+-[0-9]+题共用(?:题干|备选答案)\)?|[0-9]{1,3}[.、](?=\s*[\u4e00-\u9fffa-z]))")
# What a test shows is a sign: hcg阳性 is hcg(+). Gram stains are spelt out.
_SHOWN = re.compile("(?<!革兰)(?<!革兰氏)([阳阴])性")
# The frame in which an exam asks: 下列哪项是错误的 is 错误的是. "以下" alone is a place: 膝以下.
_FRAME = re.compile("下列|以下(?=哪|何|关于|选项|各项|不?属于|描述)|哪一?[项个种类些位]")
_ASKED = re.compile("是(不?正确|错误|不?恰当)的")
# British and American: haematuria and hematuria, diarrhoea and diarrhea, tumour and tumor.
_DIPHTHONG = re.compile("[ao]e(?=[a-z]{3})|(?<=rrh)oe(?=a)")
_OUR = re.compile("(?<=[a-z]{2})our(?=s?(?![a-z]))")
_ENGLISH_WORDS = {"what's": "what is", "what’s": "what is", "blood pressure": "血压", "hemoglobin a1c": "hba1c"}
_ENGLISH_ALIKE = re.compile("|".join(_ENGLISH_WORDS))
_GRAM = re.compile("(?<![a-z])g([+−-])(?=[菌杆球])")
_ABBREVIATIONS = {"bp": "血压", "wbc": "白细胞", "rbc": "红细胞", "hb": "血红蛋白", "plt": "血小板", "hr": "心率"}
_ABBREVIATIONS |= {"t": "体温", "p": "脉搏", "r": "呼吸", "n": "中性粒细胞"}
# Only before a value: T 38℃, P 90次, BP 120/80, WBC 12.5×10⁹.
_ABBREVIATION = re.compile(
    r"(?<![a-z0-9])(?:(bp|wbc|rbc|plt)(?![a-z])|(hb|hr)(?=[\s:]*[0-9])|(t)(?=[\s:]*(?:3[4-9]|4[0-2])(?:\.|℃|度))|([pr])(?=[\s:]*[0-9]{1,3}(?:次|/min|bpm))|(n)(?=[\s:]*0?\.[0-9]))[\s:]*"
)
_CHOICE = re.compile(r"(?<![a-z0-9])\(?([a-h])\s?[.、:)]")
MIN_CHOICES = 3
LONGEST_CHOICE = 100  # characters; what follows the last letter and is longer is further text, not a choice


def fold_signs(text: str) -> str:
    """Keep a superscript's mark after a digit, give ranges one dash, and tell a minus sign from a hyphen."""
    if "^" in text:
        text = _STRAY_CARET.sub("", text).replace("^-", "^−")
    if "+" in text:
        text = _PLUS_MINUS.sub("±", text)
    text = text.replace(">=", "≥").replace("<=", "≤")
    text = _BETWEEN_NUMBERS.sub(lambda match: {"x": "×", None: "-"}.get(match[1], match[1]), text)
    if "," in text:
        text = _THOUSANDS.sub(lambda match: match[0].replace(",", ""), text)
    return _MINUS.sub("−", text) if "-" in text else text


def fold_units(text: str) -> str:
    """Give numerals before a measure word, units and exponents one spelling."""
    text = _NUMERAL.sub(lambda match: str(numeral(match[0])), text)
    text = _ENGLISH_NUMERAL.sub(lambda match: _ENGLISH_VALUES[match[1]], text)
    text = _ROMAN.sub(lambda match: _ROMAN_VALUES[match[1]], text)
    text = _PER_MINUTE.sub(r"\1次/min", _MONTHS.sub("", text))
    text = _TYPE.sub(lambda match: _ROMAN_VALUES[match[1]], _YEAR_OLD.sub(" year old", text))
    text = _FEVER.sub(r"\1℃", _PULSE.sub("次/min", text.replace("mm hg", "mmhg")))
    after_number, after_slash = list(_AFTER_NUMBER), list(_AFTER_SLASH)
    text = _UNIT_AFTER_NUMBER.sub(lambda match: after_number[(match.lastindex or 1) - 1], text)
    text = _UNIT_AFTER_SLASH.sub(lambda match: "/" + after_slash[(match.lastindex or 1) - 1], text)
    text = _LENGTHS_EACH.sub("×", _LENGTHS.sub(r"\1×", text))
    text = _LOST_EXPONENT.sub(r"^\1", _SPELT_EXPONENT.sub(r"^\1", text))
    return _UNIT_APART.sub("", text)


def fold_scan(text: str) -> str:
    """Read a scanner's letters inside numbers as the digits they were: 9Og is 90g, l.0cm is 1.0cm."""
    if "o" in text:
        text = _SCANNED_ZERO.sub("0", text)
    return _SCANNED_ONE.sub("1", text) if "l." in text or "|." in text else text


def fold_words(text: str) -> str:
    """Write one word for the words that exams use alike, and the word for an abbreviation before its value."""
    text = _ITEM.sub("", text, count=1) if _ITEM.match(text) else text
    text = _SHOWN.sub(lambda match: "+" if match[1] == "阳" else "−", text)
    text = _ABBREVIATION.sub(lambda match: _ABBREVIATIONS[match[match.lastindex or 1]], text)
    text = _WORD.sub(lambda match: _WORDS[match[0]], _BARE_AGE.sub(r"\1岁", text))
    text = _AGE_OF.sub(r"\1", _SEX_AND_AGE.sub(r"\3\1\2", text))
    text = _ASKED.sub(r"\1的是", _FRAME.sub("", text))
    text = _OUR.sub("or", _DIPHTHONG.sub("e", text))
    text = _ENGLISH_ALIKE.sub(lambda match: _ENGLISH_WORDS[match[0]], text)
    return _GRAM.sub(lambda match: "革兰阳性" if match[1] == "+" else "革兰阴性", text)


def numeral(chars: str) -> int:
    """The value of a Chinese numeral: 十二 is 12, 一百二十 is 120, 二〇二四 is 2024."""
    if not any(char in _POWERS for char in chars):
        return int("".join(str(_DIGIT_VALUES[char]) for char in chars))
    total, section, digit = 0, 0, 0
    for char in chars:
        if char == "万":
            total, section, digit = (total + section + digit) * 10_000, 0, 0
        elif char in _POWERS:
            section, digit = section + (digit or 1) * _POWERS[char], 0
        else:
            digit = _DIGIT_VALUES[char]
    return total + section + digit


def split_choices(text: str) -> tuple[str, list[str]]:
    """Part a text from the lettered choices at its end, three or more; ("text", []) where it lists none."""
    marks = list(_CHOICE.finditer(text))
    starts = [number for number, mark in enumerate(marks) if mark[1] == "a"]
    if len(marks) < MIN_CHOICES or not starts:
        return text, []
    run = [marks[starts[-1]]]
    for mark in marks[starts[-1] + 1 :]:
        if ord(mark[1]) == ord(run[-1][1]) + 1:
            run.append(mark)
    ends = [*(mark.start() for mark in run[1:]), len(text)]
    choices = [text[mark.end() : end].strip() for mark, end in zip(run, ends, strict=True)]
    stem = text[: run[0].start()]
    if len(run) < MIN_CHOICES or not stem.strip() or len(choices[-1]) > LONGEST_CHOICE or "?" in choices[-1]:
        return text, []
    return stem, choices
