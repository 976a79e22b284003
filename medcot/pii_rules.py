"""The rules of medcot/pii.py for numbers, addresses and accounts: a pattern each, and a judge that reads the evidence.

They read text of half-width digits, letters, `:`, `(`, `)`, `-` and spaces. A number is known by its form, such as a check digit, or by
a label right before it. A judge answers True for certain, False for a hit that a person should see, None for none.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from functools import cached_property

Judge = Callable[[str, "re.Match[str]"], bool | None]


@dataclass(frozen=True)
class Rule:
    """One way to find a kind of personal data.

    pattern  its group v is the value
    judge    reads a match: certain, not certain, or no hit
    hints    words parted by |, in lower case: without one of them the pattern has nothing to find
    form     the same as a pattern, for raw text
    """

    kind: str
    pattern: str
    judge: Judge
    hints: str = ""
    form: re.Pattern[str] | None = None
    ignore_case: bool = False

    @cached_property
    def search(self) -> re.Pattern[str]:
        """The pattern, compiled."""
        return re.compile(self.pattern, re.IGNORECASE if self.ignore_case else 0)

    @cached_property
    def words(self) -> tuple[str, ...]:
        """The hints as a tuple."""
        return tuple(self.hints.split("|"))


_PROVINCES = frozenset((*range(11, 16), *range(21, 24), *range(31, 38), *range(41, 47), *range(50, 55), *range(61, 66), 71, 81, 82, 83))
# A number after one of these words is a code, and one before one of these units a quantity.
_CODE = re.compile(
    r"(?:批号|货号|条码|条形码|编号|序列号|订单号?|流水号|准字|专利号?|注册证?号?|备案号?|登录号|基因|版本|标准|学号|第|probe|(?<![a-z])id|doi|pmid|pmcid|isbn|issn|nct"
    r"|chictr|isrctn|gsm|gse|lot|batch|order|cat(?:alog(?:ue)?)?|accession|barcode|sku|serial|ref(?:erence)?|patent|cas|snomed|loinc|icd)"
    r"(?:\.|#|号|码| no\.?| number| id)?\s?[:为是(]?\s?[a-z./-]{0,12}$",
    re.IGNORECASE,
)
_QUANTITY = re.compile(
    r"\s?(?:[×xX*/%^~±≤≥<>=]|bp|kb|个|copies|拷贝|IU|U(?![a-z])|Da|元|次|人|例|株|岁|年|[kcmµμunp]?(?:g|l|L|m|mol|M)(?![a-z])|mmHg|CFU|cfu"
    r"|cells|细胞|reads|万|亿|cases|patients)"
)
_PHONE_LABEL = re.compile(
    r"(?:电话|手机|联系|致电|拨|传真|微信|短信|tel|phone|mobile|cell|call|fax|contact|whatsapp)[^0-9\n]{0,8}$", re.IGNORECASE
)

# What may stand between a label and its value; where a value may begin and end.
_GAP = r"(?:号码|编号|号|码)?[ \t]?(?:[:=#(]|是|为|no\.?:?|number:?|is)?[ \t]?(?:no\.?|is)?[ \t]?"
_EDGE, _END, _WORD = r"(?<![0-9A-Za-z.])", r"(?![0-9A-Za-z]|\.[0-9])", "(?<![A-Za-z])"
_PART = r"\d+(?:号院?楼?|弄|栋|幢|座|单元|室|层|楼|组|户)"
_HOUSE = rf"\d+(?:号院?楼?|弄|栋|幢|单元|室|组|户)(?:[\u4e00-\u9fff0-9A-Z-]{{0,12}}?{_PART})*(?:(?<=[栋幢元楼])-?\d{{2,4}}(?![0-9年月]))?"
_TEN = r"[A-Z]{0,3}\d[\d-]{5,19}"


def is_identity_number(number: str) -> bool:
    """Whether the 18th character is the check digit of the first 17 (GB 11643, ISO 7064 mod 11-2)."""
    total = sum(int(digit) * (2 ** (17 - i) % 11) for i, digit in enumerate(number[:17]))
    return "10X98765432"[total % 11] == number[17]


def is_luhn(number: str) -> bool:
    """Whether the last digit is the Luhn check digit (ISO/IEC 7812-1) of the others."""
    digits = [int(digit) for digit in reversed(number)]
    return (sum(digits[::2]) + sum(sum(divmod(2 * digit, 10)) for digit in digits[1::2])) % 10 == 0


def _digits(match: re.Match[str]) -> str:
    return re.sub("[^0-9Xx]", "", match.group("v")).upper()


def _is_code(text: str, match: re.Match[str]) -> bool:
    start, end = match.span("v")
    return bool(_CODE.search(text[max(0, start - 24) : start]) or _QUANTITY.match(text, end))


def _is_date(text: str) -> bool:
    try:
        return 1890 <= date(int(text[:4]), int(text[4:6]), int(text[6:])).year <= 2050
    except ValueError:
        return False


def _certain(_text: str, _match: re.Match[str]) -> bool | None:
    return True


def _uncertain(_text: str, _match: re.Match[str]) -> bool | None:
    return False


_ID_WORD = re.compile(r"(?<![a-z])id(?: ?(?:number|no\.?))?\s?[:(]?\s?(?:is )?$", re.IGNORECASE)  # of a gene's or an order's id as well


def _identity(text: str, match: re.Match[str]) -> bool | None:
    number, start = _digits(match), match.start("v")
    if not _is_date(number[6:14]):
        return None
    valid, known = is_identity_number(number), int(number[:2]) in _PROVINCES
    if valid and known and _ID_WORD.search(text[max(0, start - 16) : start]):
        return True
    if _is_code(text, match):
        return None
    return valid and known if valid or known else None


def _phone(text: str, match: re.Match[str]) -> bool | None:
    if _is_code(text, match):
        return None
    start = match.start("v")
    return bool(_PHONE_LABEL.search(text[max(0, start - 16) : start]))


def _mobile(text: str, match: re.Match[str]) -> bool | None:
    labelled = _phone(text, match)
    return labelled if labelled is None else labelled or not match.group("v").isdigit()


def _labelled_phone(_text: str, match: re.Match[str]) -> bool | None:
    digits = _digits(match)
    public = re.match("1?(?:400|800|888)|9[156]", digits)
    return None if public or not 7 <= len(digits) <= 15 else True


def _card(text: str, match: re.Match[str]) -> bool | None:
    number = _digits(match)
    if not is_luhn(number) or _is_code(text, match) or len(set(number)) < 4:
        return None
    return True if number.startswith("62") else False if len(number) == 16 else None


def _labelled_card(_text: str, match: re.Match[str]) -> bool | None:
    return is_luhn(_digits(match))


# A run of digits with at most one separator between two of them; and a house number after a street.
_DIGITS = re.compile(r"\d(?:[\s\-－()（）—–‐‑−﹣]{0,2}\d){9}")
_STREET = re.compile(r"[路街道巷弄同村][0-9０-９]")


def _rule(kind: str, pattern: str, judge: Judge = _certain, hints: str = "", form: re.Pattern[str] | None = None) -> Rule:
    return Rule(kind, pattern, judge, hints, form, ignore_case=True)


_ID_LABEL = rf"(?:身份证件?|公民身份|居民证|证件|{_WORD}(?:id card|identity(?: card)?|national id))"
_PHONE_LABELS = rf"(?:电话|手机号?|联系方式|传真|{_WORD}(?:tel(?:ephone)?\.?|(?:home |cell |mobile )?phone|mobile|cell|fax))(?![a-z-])"
_CARD_LABEL = "(?:银行卡|(?<![保诊疗院障康])卡号|信用卡|借记卡|储蓄卡|银行账[号户]|card number|bank account|account number)"
_RECORD = "住院|病历|病案|门诊|就诊|急诊|登记|体检|检查|检验|影像|放射|超声|病理|标本|诊疗卡|就诊卡|患者|病人"
_RECORD_EN = rf"{_WORD}(?:MRN|(?:medical |hospital |patient |admission |case )(?:record )?(?:number|no\.?|id)|record no\.?)"
_INSURANCE = "社保|医保|社会保障|医疗保险|新农合|参合|合作医疗"
_INSURANCE_EN = rf"{_WORD}(?:(?:insurance|policy|medicare)(?: number| no\.?| id)|social security(?: number| no\.?)?|SSN)"
_HOME = "住址|地址|家住|现住|居住于|居住在|住在|户籍"
_WAY = r"(?:street|st|avenue|ave|road|rd|lane|ln|drive|dr|boulevard|blvd)(?![a-z])\.?(?:,? (?:apt|unit|suite)\.? \w+)?"
_START = "(?:(?![在于自从到住往址籍家者人地的为是])[\u4e00-\u9fff])"  # of an address within a sentence
_TOWN = rf"{_START}{{2,12}}[省市区县镇乡]"
_ESTATE = rf"{_START}{{2,8}}(?:小区|花园|家园|公寓|新村|苑)"
_ROAD = r"[\u4e00-\u9fff]{1,12}(?:路|街|道|巷|弄|胡同|村)"

VALUE_RULES = [
    _rule("id_number", rf"{_ID_LABEL}{_GAP}(?P<v>\d{{17}}[\dX]|\d{{15}}){_END}", hints="身份|居民证|证件|id card|identity|national id"),
    _rule("id_number", rf"{_EDGE}(?P<v>[1-9]\d{{5}}[ -]?(?:18|19|20)\d{{6}}[ -]?\d{{3}}[\dX]){_END}", _identity, form=_DIGITS),
    _rule(
        "mobile",
        rf"{_EDGE}(?P<v>(?:(?:\+|00)?86[ -]?)?1[3-9]\d(?:[ -]?\d{{4}}[ -]?\d{{4}}|[ -]\d{{3}}[ -]\d{{5}})){_END}",
        _mobile,
        form=_DIGITS,
    ),
    _rule("mobile", rf"{_EDGE}(?P<v>1[3-9]\d\.\d{{4}}\.\d{{4}}){_END}", _mobile, form=re.compile(r"\d{3}[.．]\d{4}[.．]\d{4}")),
    _rule(
        "phone",
        rf"{_EDGE}(?P<v>(?:\+?86[ -]?)?(?:\(0\d{{2,3}}\)[ -]?|0\d{{2,3}}[ -])\d{{3,4}}[ -]?\d{{4}}(?:(?:-|转)\d{{1,5}})?){_END}",
        _phone,
        form=_DIGITS,
    ),
    _rule(
        "phone",
        rf"{_PHONE_LABELS}{_GAP}(?P<v>\+?\(?\d[\d() -]{{5,16}}\d){_END}",
        _labelled_phone,
        "电话|手机|联系方式|传真|tel|phone|mobile|cell|fax",
    ),
    _rule(
        "email", r"(?<![a-z0-9._%+-])(?P<v>[a-z0-9][a-z0-9._%+-]{0,63}@[a-z0-9-]+(?:\.[a-z0-9-]+)*\.[a-z]{2,})(?![a-z0-9])", hints="@|＠"
    ),
    _rule(
        "bank_card",
        rf"{_CARD_LABEL}{_GAP}(?P<v>\d(?:[ -]?\d){{11,18}}){_END}",
        _labelled_card,
        "卡号|银行|信用卡|借记卡|储蓄卡|card number|account",
    ),
    # UnionPay cards begin with 62 and have 16 to 19 digits; others begin with 3, 4 or 5.
    _rule("bank_card", rf"{_EDGE}(?P<v>[3-6]\d{{3}}(?:[ -]?\d{{4}}){{3}}(?:[ -]?\d{{1,3}})?){_END}", _card, form=_DIGITS),
    _rule(
        "passport",
        rf"(?:护照|通行证|军官证|士兵证|{_WORD}passport){_GAP}(?P<v>(?:[\u4e00-\u9fff]字第?)?[A-Z]{{0,2}}\d{{7,9}}){_END}",
        hints="护照|通行证|军官证|士兵证|passport",
    ),
    _rule("insurance", rf"(?:{_INSURANCE})[卡证]?{_GAP}(?P<v>{_TEN}){_END}", hints=_INSURANCE),
    _rule("insurance", rf"{_INSURANCE_EN}[ :#]{{1,3}}(?P<v>{_TEN}){_END}", hints="insurance|policy|medicare|security|ssn"),
    _rule(
        "record_number",
        rf"(?:{_RECORD})(?:编号|号码?|ID){_GAP}(?P<v>[A-Z]{{0,4}}-?(?:\d{{3,}}|\d\d-\d{{3,}})[\dA-Z-]*){_END}",
        hints="号|id|ｉｄ",
    ),
    _rule("record_number", rf"床位?号{_GAP}(?P<v>[A-Z]?\d{{1,3}}(?:-\d{{1,2}})?)(?![0-9A-Za-z.%])", hints="床号|床位号"),
    _rule(
        "record_number",
        rf"{_RECORD_EN}{_GAP}(?P<v>[A-Z]{{0,3}}-?\d{{4,}}[\dA-Z-]*){_END}",
        hints="mrn|number|no.|no |l id|t id|n id|e id|d id",
    ),
    _rule("record_number", rf"{_WORD}bed (?:number|no\.?)[ :#]{{1,2}}(?P<v>\d{{1,3}}[A-Z]?)(?=\s*(?:[,.;)]|$))", hints="bed n"),
    _rule(
        "account",
        rf"(?:微信|wechat)(?:号|[ \t]?ID)?(?:[ \t]?[:是为(]|(?<=[号Dd])|(?=[a-z-]*[_0-9]))[ \t]?(?P<v>[a-z][a-z0-9_-]{{5,19}}){_END}",
        hints="微信|wechat",
    ),
    _rule("account", rf"加[我他她]?的?微信[ \t]?:?[ \t]?(?P<v>[a-z][a-z0-9_-]{{5,19}}){_END}", hints="微信"),
    _rule("account", rf"{_WORD}QQ(?:号码?|群)?[ \t]?[:是为]?[ \t]?(?P<v>[1-9]\d{{4,10}}){_END}", hints="qq|ｑｑ"),
    _rule("address", rf"(?:{_HOME})(?:地址|地|所在地)?[: ]{{0,2}}(?P<v>[\u4e00-\u9fff0-9A-Z()-]{{2,40}}?{_HOUSE})", hints=_HOME),
    _rule("address", rf"(?P<v>{_ESTATE}\d+(?:号楼?|栋|幢|座)(?:[\u4e00-\u9fff-]?{_PART})*)", hints="小区|花园|家园|公寓|新村|苑"),
    _rule("address", rf"(?P<v>{_TOWN}{_ROAD}{_HOUSE})", _uncertain, form=_STREET),
    _rule(
        "address",
        rf"(?:address|lives at|residing at)[: ]{{1,2}}(?P<v>\d+[A-Z]? (?:[A-Z][\w'.]* ){{1,4}}{_WAY})",
        hints="address|lives at|residing at",
    ),
]
