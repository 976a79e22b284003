"""Personal data of mainland China in free text: identity numbers, phones, cards, record numbers, addresses, names.

Every kind is a named rule, `pii_<kind>`. A number is taken for what it claims to be by its form (check digits, prefixes) or by a
label before it (住院号：); where the evidence could also fit a laboratory value, a code or a catalogue number the hit is not
certain and goes to review. Nothing is looked for inside words like 批号 or after units' numbers.

Masks are placeholders, numbered by first appearance in a record: `[手机号1]` in a record with Chinese text, `[MOBILE1]` in others.
A hash of the value would be no mask: eleven digits are found by trying them all.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import date
from typing import Literal, NamedTuple

from medcot.names import find_names
from medcot.params import Params
from medcot.records import TEXT_FIELDS, Record

# Kind and its placeholders; where hits overlap the earlier kind names the whole.
_PLACEHOLDERS = {
    "id_number": ("身份证号", "ID"),
    "bank_card": ("银行卡号", "CARD"),
    "mobile": ("手机号", "MOBILE"),
    "phone": ("电话", "PHONE"),
    "email": ("邮箱", "EMAIL"),
    "passport": ("证件号", "PASSPORT"),
    "insurance": ("医保号", "INSURANCE"),
    "record_number": ("病历号", "RECORD"),
    "account": ("账号", "ACCOUNT"),
    "address": ("地址", "ADDRESS"),
    "name": ("姓名", "NAME"),
}
KINDS = tuple(_PLACEHOLDERS)
RULES = tuple(f"pii_{kind}" for kind in KINDS)
REVIEW = "pii_review"

Mode = Literal["auto", "off", "warn", "mask", "drop"]


class PiiParams(Params):
    """What happens to personal data."""

    mode: Mode = "auto"
    """`warn` flags, `mask` puts placeholders, `drop` removes records with a certain hit, `off` looks for nothing;
    `auto` is `mask` for an imported file and `warn` for the sample and the hubs."""


def effective_mode(params: PiiParams, source: str) -> Mode:
    """Resolve `auto`: source is `download.source`, and a file may hold what was never published."""
    if params.mode != "auto":
        return params.mode
    return "mask" if source == "file" else "warn"


class Hit(NamedTuple):
    """A place of personal data in a text, start and end in characters; not certain = it may be something else."""

    kind: str
    start: int
    end: int
    certain: bool

    @property
    def rule(self) -> str:
        """The rule's name in the ledger."""
        return f"pii_{self.kind}"


class Found(NamedTuple):
    """The hits of one rule in a record; the detail names fields and counts, never a value."""

    rule: str
    certain: bool
    detail: str


_FULL = "０１２３４５６７８９ＡＢＣＤＥＦＧＨＩＪＫＬＭＮＯＰＱＲＳＴＵＶＷＸＹＺａｂｃｄｅｆｇｈｉｊｋｌｍｎｏｐｑｒｓｔｕｖｗｘｙｚ＋－＠．：（）　＿／＃；＝—–‐‑−﹣\u00a0"
_HALF = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz+-@.:() _/#;=------ "
_FOLD = str.maketrans(_FULL, _HALF)
_HAN = re.compile("[\u4e00-\u9fff]")
_BLANK = re.compile(rf"\[(?:{'|'.join(word for pair in _PLACEHOLDERS.values() for word in pair)})\d+\]")
_LABELS = re.compile(r"\[(\D+?)(\d+)\]")

# Cheap: is there anything that a rule could start from? Most texts have nothing, and are done.
_DIGITS = re.compile(r"[0-9０-９][0-9０-９ \-－()（）]{5}")
_WORDS = re.compile(
    "姓名|姓 名|医生|医师|大夫|护士|教授|我叫|名叫|叫做|我的名字|联系人|签名|签字|记录|主刀|检查者|报告者|审核|家属|监护人|陪护|委托人"
    "|患者[:：]|(?:患者|病人|患儿|产妇|孕妇|伤者|死者|病员|病患|受试者|被鉴定人).{2,4}[，,、（(男女因于主自入来首0-9]"
    "|[父母妻夫]|儿子|女儿|号|微信|QQ|[Ww]e[Cc]hat|地址|住址|家住|住在|居住|户籍|[路街道巷弄村]\\s?[0-9０-９]"
    "|[Nn]ame|NAME|Patient:|[Aa]ttending|[Rr]eferred|[Ss]igned|[Dd]ictated|kin:|named|called|Mr|Ms|MRN|[Rr]ecord|[Bb]ed |[Aa]ddress|lives at|residing"
)

_PROVINCES = frozenset(["11", "12", "13", "14", "15", "21", "22", "23", "31", "32", "33", "34", "35", "36", "37", "41", "42", "43", "44", "45", "46", "50", "51", "52", "53", "54", "61", "62", "63", "64", "65", "71", "81", "82", "83"])
_WEIGHTS = [2 ** (17 - i) % 11 for i in range(17)]
# Numbers after these are codes, and numbers before those are quantities.
_CODE = re.compile(
    r"(?:批号|货号|条码|条形码|编号|序列号|订单号?|流水号|准字|专利号?|注册证?号?|备案号?|登录号|基因|版本|标准|doi|pmid|pmcid|isbn|issn|nct|chictr|isrctn"
    r"|gsm|gse|lot|batch|order|cat(?:alog(?:ue)?)?|accession|barcode|sku|serial|ref|patent|cas|snomed|loinc|icd)"
    r"(?:\.|号|码| no\.?| number| id)?\s?[#:为是(]?\s?[a-z./-]{0,12}$",
    re.IGNORECASE,
)
_QUANTITY = re.compile(
    r"\s?(?:[×xX*/%^~±≤≥<>=]|bp|kb|个|copies|拷贝|IU|U\b|Da\b|元|次|人|例|株|岁|年|ml|mL|mg|ug|μg|g\b|kg|mm|cm|L\b|µ|CFU|cfu|cells|细胞|reads|万|亿)"
)
_PHONE_LABEL = re.compile(
    r"(?:电话|手机|联系方式|联系|致电|拨打|热线|传真|微信|短信|tel|phone|mobile|cell|call|fax|contact|whatsapp)[^0-9\n]{0,8}$",
    re.IGNORECASE,
)

_GAP = r"(?:号码|编号|号|码)?[ \t]?(?:[:=#(]|是|为|no\.?:?|number:?|is)?[ \t]?(?:no\.?|is)?[ \t]?"
_EDGE, _END = r"(?<![0-9A-Za-z.])", r"(?![0-9A-Za-z]|\.[0-9])"

Judge = Callable[[str, "re.Match[str]"], bool | None]


def _yes(_text: str, _match: re.Match[str]) -> bool:
    return True


def _no_certainty(_text: str, _match: re.Match[str]) -> bool:
    return False


def _digits(match: re.Match[str]) -> str:
    return re.sub("[^0-9Xx]", "", match.group("v")).upper()


def _is_code(text: str, match: re.Match[str]) -> bool:
    """Whether a label before the number or a unit behind it says that it is something else."""
    start, end = match.span("v")
    return bool(_CODE.search(text[max(0, start - 24) : start]) or _QUANTITY.match(text, end))


def is_identity_number(number: str) -> bool:
    """Whether the 18th character is the check digit of the first 17 (GB 11643, ISO 7064 mod 11-2)."""
    total = sum(int(digit) * weight for digit, weight in zip(number[:17], _WEIGHTS, strict=True))
    return "10X98765432"[total % 11] == number[17]


def is_luhn(number: str) -> bool:
    """Whether the last digit is the Luhn check digit (ISO/IEC 7812-1) of the others."""
    digits = [int(digit) for digit in reversed(number)]
    return (sum(digits[::2]) + sum(sum(divmod(2 * digit, 10)) for digit in digits[1::2])) % 10 == 0


def _is_date(text: str) -> bool:
    try:
        return 1890 <= date(int(text[:4]), int(text[4:6]), int(text[6:])).year <= 2050
    except ValueError:
        return False


def _judge_identity(text: str, match: re.Match[str]) -> bool | None:
    number = _digits(match)
    if not _is_date(number[6:14]) or _is_code(text, match):
        return None
    valid, known = is_identity_number(number), number[:2] in _PROVINCES
    return valid and known if valid or known else None


def _judge_mobile(text: str, match: re.Match[str]) -> bool | None:
    if _is_code(text, match):
        return None
    value = match.group("v")
    return not value.isdigit() or bool(_PHONE_LABEL.search(text[max(0, match.start("v") - 16) : match.start("v")]))


def _judge_phone(text: str, match: re.Match[str]) -> bool | None:
    if _is_code(text, match):
        return None
    return bool(_PHONE_LABEL.search(text[max(0, match.start("v") - 16) : match.start("v")]))


def _judge_labelled_phone(_text: str, match: re.Match[str]) -> bool | None:
    digits = _digits(match)
    return None if not 7 <= len(digits) <= 15 or digits.startswith(("400", "800")) else True


def _judge_card(text: str, match: re.Match[str]) -> bool | None:
    number = _digits(match)
    if not is_luhn(number) or _is_code(text, match) or len(set(number)) < 4:
        return None
    if number.startswith("62"):
        return True
    return False if len(number) == 16 and number[0] in "345" else None


def _judge_labelled_card(_text: str, match: re.Match[str]) -> bool:
    return is_luhn(_digits(match))


def _rule(pattern: str, judge: Judge = _yes, *, ignore_case: bool = True) -> tuple[re.Pattern[str], Judge]:
    return re.compile(pattern, re.IGNORECASE if ignore_case else 0), judge


_RULES: list[tuple[str, re.Pattern[str], Judge]] = [
    (kind, *rule)
    for kind, rule in [
        (
            "id_number",
            _rule(
                rf"(?:身份证件?|公民身份|居民证|证件|\bid card|\bidentity(?: card)?|national id){_GAP}(?P<v>\d{{17}}[\dX]|\d{{15}}){_END}"
            ),
        ),
        ("id_number", _rule(rf"{_EDGE}(?P<v>[1-9]\d{{5}}[ -]?(?:18|19|20)\d{{6}}[ -]?\d{{3}}[\dX]){_END}", _judge_identity)),
        (
            "mobile",
            _rule(rf"{_EDGE}(?P<v>(?:(?:\+|00)?86[ -]?)?1[3-9]\d(?:[ -]?\d{{4}}[ -]?\d{{4}}|[ -]\d{{3}}[ -]\d{{5}})){_END}", _judge_mobile),
        ),
        (
            "phone",
            _rule(
                rf"{_EDGE}(?P<v>(?:\+?86[ -]?)?(?:\(0\d{{2,3}}\)[ -]?|0\d{{2,3}}[ -])\d{{3,4}}[ -]?\d{{4}}(?:(?:-|转)\d{{1,5}})?){_END}",
                _judge_phone,
            ),
        ),
        (
            "phone",
            _rule(
                rf"(?:电话|手机号?|联系方式|传真|\btel(?:ephone)?\b\.?|\b(?:home |cell |mobile )?phone|\bmobile|\bcell|\bfax){_GAP}(?P<v>\+?\(?\d[\d() -]{{5,16}}\d){_END}",
                _judge_labelled_phone,
            ),
        ),
        ("email", _rule(r"(?P<v>[a-z0-9][a-z0-9._%+-]{0,63}@[a-z0-9-]+(?:\.[a-z0-9-]+)*\.[a-z]{2,})")),
        (
            "bank_card",
            _rule(
                rf"(?:银行卡|(?<![保诊疗院])卡号|信用卡|借记卡|储蓄卡|银行账[号户]|card number|bank account|account number){_GAP}(?P<v>\d(?:[ -]?\d){{11,18}}){_END}",
                _judge_labelled_card,
            ),
        ),
        ("bank_card", _rule(rf"{_EDGE}(?P<v>[3-6]\d{{3}}(?:[ -]?\d{{4}}){{3}}(?:[ -]?\d{{1,3}})?){_END}", _judge_card)),
        ("passport", _rule(rf"(?:护照|通行证|军官证|士兵证|\bpassport){_GAP}(?P<v>[A-Z]{{0,2}}\d{{7,9}}){_END}")),
        (
            "insurance",
            _rule(rf"(?:社保|医保|社会保障|医疗保险|新农合|参合|合作医疗)(?:卡|证)?{_GAP}(?P<v>[A-Z]{{0,3}}\d[\d-]{{5,19}}){_END}"),
        ),
        ("insurance", _rule(rf"\b(?:insurance|social security|SSN|medicare|policy){_GAP}(?P<v>[A-Z]{{0,3}}\d[\d-]{{5,19}}){_END}")),
        (
            "record_number",
            _rule(
                rf"(?:住院|病历|病案|门诊|就诊|急诊|登记|体检|检查|检验|影像|放射|超声|病理|标本|条码|诊疗卡|就诊卡|患者|病人)(?:编号|号码?|ID){_GAP}(?P<v>[A-Z]{{0,4}}-?\d{{3,}}[\dA-Z-]*){_END}"
            ),
        ),
        ("record_number", _rule(rf"(?:床号|床位号){_GAP}(?P<v>[A-Z]?\d{{1,3}}(?:-\d{{1,2}})?)(?![0-9A-Za-z.%])")),
        (
            "record_number",
            _rule(
                rf"\b(?:MRN|(?:medical |hospital |patient |admission |case )(?:record )?(?:number|no\.?|id)|record no\.?){_GAP}(?P<v>[A-Z]{{0,3}}-?\d{{4,}}[\dA-Z-]*){_END}"
            ),
        ),
        ("record_number", _rule(rf"\bbed (?:number|no\.?){_GAP}(?P<v>\d{{1,3}}[A-Z]?){_END}")),
        (
            "account",
            _rule(rf"(?:微信(?:号|ID|联系)?|wechat(?: id)?)(?:[ \t]?[:是为(][ \t]?|(?<=[号Dd])[ \t]?)(?P<v>[a-z][a-z0-9_-]{{5,19}}){_END}"),
        ),
        ("account", _rule(rf"加(?:我|他|她)?(?:的)?微信[ \t]?:?[ \t]?(?P<v>[a-z][a-z0-9_-]{{5,19}}){_END}")),
        ("account", _rule(rf"\bQQ(?:号码?|群)?[ \t]?[:是为]?[ \t]?(?P<v>[1-9]\d{{4,10}}){_END}")),
        (
            "address",
            _rule(
                r"(?:住址|地址|家住|现住|居住于|居住在|住在|户籍(?:地|所在地)?)[: ]{0,2}(?P<v>[\u4e00-\u9fff0-9A-Z()-]{2,40}?\d+(?:号院?楼?|弄|栋|幢|单元|室|组|户)(?:[\u4e00-\u9fff0-9A-Z-]{0,12}?\d+(?:号楼?|栋|幢|单元|室|层|楼|户))*)"
            ),
        ),
        (
            "address",
            _rule(
                r"(?P<v>[\u4e00-\u9fff]{2,12}(?:省|市|区|县|镇|乡)[\u4e00-\u9fff]{1,12}(?:路|街|道|巷|弄|胡同|村)\d+(?:号院?楼?|弄)(?:[\u4e00-\u9fff0-9A-Z-]{0,12}?\d+(?:号楼?|栋|幢|单元|室|层|楼|户))*)",
                _no_certainty,
            ),
        ),
        (
            "address",
            _rule(
                r"(?:address|lives at|residing at|home)[: ]{1,2}(?P<v>\d+[A-Z]? (?:[A-Z][\w'.]* ){1,4}(?:street|st|avenue|ave|road|rd|lane|ln|drive|dr|boulevard|blvd)\b\.?(?:,? (?:apt|unit|suite)\.? \w+)?)"
            ),
        ),
    ]
]


def find(text: str) -> list[Hit]:
    """Find personal data in one text: hits in order, none of which overlap."""
    return find_all([text])[0]


def find_all(texts: Sequence[str]) -> list[list[Hit]]:
    """Find personal data in the texts of one record: a value that one text labels is found without its label in all."""
    if not any(_suspicious(text) for text in texts):
        return [[] for _ in texts]
    flats = [_BLANK.sub(lambda match: "\0" * len(match.group()), text.translate(_FOLD)) for text in texts]
    found = [list(_search(flat)) for flat in flats]
    known = {flat[hit.start : hit.end]: hit for flat, hits in zip(flats, found, strict=True) for hit in hits if hit.certain}
    for flat, hits in zip(flats, found, strict=True):
        hits.extend(_repeats(flat, known))
    return [_merge(hits) for hits in found]


def _suspicious(text: str) -> bool:
    return "@" in text or "＠" in text or bool(_DIGITS.search(text)) or bool(_WORDS.search(text))


def _search(flat: str) -> Iterator[Hit]:
    for kind, pattern, judge in _RULES:
        for match in pattern.finditer(flat):
            certain = judge(flat, match)
            if certain is not None:
                yield Hit(kind, *match.span("v"), certain)
    for start, end, certain in find_names(flat):
        yield Hit("name", start, end, certain)


def _repeats(flat: str, known: dict[str, Hit]) -> Iterator[Hit]:
    """The values known from anywhere in the record; short numbers, such as a bed's, mean nothing elsewhere."""
    for value, hit in known.items():
        if len(value) < (2 if hit.kind == "name" else 5):
            continue
        edge = (r"(?<![A-Za-z0-9])", r"(?![A-Za-z0-9])") if value.isascii() else ("", "")
        for match in re.finditer(edge[0] + re.escape(value) + edge[1], flat):
            yield Hit(hit.kind, *match.span(), True)


def _merge(hits: list[Hit]) -> list[Hit]:
    """Join hits that overlap into one, of the kind that comes first in KINDS."""
    merged: list[Hit] = []
    for hit in sorted(hits, key=lambda hit: (hit.start, KINDS.index(hit.kind), -hit.end)):
        if merged and hit.start < merged[-1].end:
            last = merged[-1]
            kind = min(last.kind, hit.kind, key=KINDS.index)
            merged[-1] = Hit(kind, last.start, max(last.end, hit.end), last.certain or hit.certain)
        else:
            merged.append(hit)
    return merged


class Numbering:
    """The placeholders of one record: the same value has the same one in all its texts."""

    def __init__(self, *texts: str) -> None:
        self._texts = texts
        self._language = 0 if any(_HAN.search(text) for text in texts) else 1
        taken = [match.groups() for text in texts for match in _LABELS.finditer(text)]
        self._last = Counter({name: max(int(n) for word, n in taken if word == name) for name in {word for word, _ in taken}})
        self._values: dict[tuple[str, str], str] = {}

    def hits(self, text: str) -> list[Hit]:
        """The hits of a text, with what the record's other texts tell."""
        return find_all([text, *self._texts])[0]

    def placeholder(self, kind: str, value: str) -> str:
        """The placeholder of a value; one that differs in width, case, separators or country code alone is the same value."""
        key = kind, _canonical(kind, value)
        if key not in self._values:
            name = _PLACEHOLDERS[kind][self._language]
            self._last[name] += 1
            self._values[key] = f"[{name}{self._last[name]}]"
        return self._values[key]


def _canonical(kind: str, value: str) -> str:
    value = value.translate(_FOLD).lower()
    if kind in ("name", "address"):
        return value
    value = re.sub(r"[\s()-]", "", value)
    return re.sub(r"^(?:\+|00)?86(?=1\d{10}$)", "", value) if kind == "mobile" else value


def mask(text: str, numbering: Numbering) -> str:
    """Replace every hit by its placeholder, certain or not, and touch nothing else; masking again changes nothing."""
    parts, end = [], 0
    for hit in numbering.hits(text):
        parts += [text[end : hit.start], numbering.placeholder(hit.kind, text[hit.start : hit.end])]
        end = hit.end
    return "".join([*parts, text[end:]])


def masked(text: str) -> str:
    """Mask a text on its own: what reports and pages show."""
    return mask(text, Numbering(text))


def mask_record(record: Record) -> tuple[Record, dict[str, int]]:
    """Mask a record's texts and count the hits of each rule, in order of RULES; uncertain hits count under REVIEW too."""
    texts = {name: getattr(record, name) for name in TEXT_FIELDS}
    hits = [hit for some in find_all(list(texts.values())) for hit in some]
    if not hits:
        return record, {}
    numbering = Numbering(*texts.values())
    counts = Counter(hit.rule for hit in hits) + Counter(REVIEW for hit in hits if not hit.certain)
    ordered = {rule: counts[rule] for rule in (*RULES, REVIEW) if counts[rule]}
    return replace(record, **{name: mask(text, numbering) for name, text in texts.items()}), ordered


def find_record(record: Record) -> list[Found]:
    """Say what a record holds, rule by rule, certain hits first; safe for the ledger."""
    hits = dict(zip(TEXT_FIELDS, find_all([getattr(record, name) for name in TEXT_FIELDS]), strict=True))
    found = []
    for certain in (True, False):
        for rule in RULES:
            counts = {name: sum(hit.rule == rule and hit.certain is certain for hit in some) for name, some in hits.items()}
            places = ", ".join(f"{name} {count}" for name, count in counts.items() if count)
            if places:
                found.append(Found(rule if certain else REVIEW, certain, places if certain else f"{rule}: {places}"))
    return found
