"""The words of the guard: what states a fact, what is its opposite, what says nothing, and what asks nothing by itself."""

from __future__ import annotations

import re
from collections.abc import Iterator

from medcot.matching import choices, stem

_OPPOSITES = {
    "laterality": "左/右/双 单/双 单/多 对/患 患/健 left/right/bilateral unilateral/bilateral ipsilateral/contralateral",
    "sex": "男/女 父/母 爷/奶 他/她 male/female man/woman men/women boy/girl boys/girls he/she his/her him/her father/mother son/daughter",
    "negation": "有/无 有/没 有/未 已/未 能/不 可/不 宜/忌 是/否 是/非 均/无 伴/无 with/without present/absent always/never",
    "polarity": """
        高/低 升/降 增/减 增/降 急/慢 上/下 前/后 内/外 阴/阳 轻/重 快/慢 大/小 长/短 多/少 深/浅 强/弱 早/晚 收/舒 缩/张 动/静 吸/呼 良/恶
        植/动 误/漏 冷/热 寒/热 虚/实 加/减 开/闭 正/负 正/异 远/近 过/欠 同/异 生/死 初/经 原/继 亢/减 亢/低 正/错 确/误 酸/碱 甲/乙
        首/末 入/出
        high/low higher/lower elevated/decreased elevated/reduced increase/decrease increased/decreased increases/decreases rise/fall
        acute/chronic upper/lower before/after anterior/posterior medial/lateral proximal/distal internal/external positive/negative
        mild/severe benign/malignant systolic/diastolic arterial/venous artery/vein normal/abnormal more/less large/small early/late
        primary/secondary acidosis/alkalosis most/least best/worst""",
}
# One word less or more is opposed too: hypertension and hypotension, compatible and incompatible.
_OPPOSED_PREFIXES = {
    "polarity": "hyper/hypo tachy/brady pre/post intra/extra supra/infra micro/macro poly/oligo homo/hetero endo/exo ab/ad",
    "negation": "/non /un /in /im /dis",
}
_TRENDS = "高 低 升 降 增 减 急 慢 high low elevated decreased increased reduced increase decrease acute chronic"
_NEGATIONS = "不 无 未 非 没 否 勿 忌 禁 拒 缺 no not without never denies denied deny neither nor none non absent negative cannot"
_UNITS = """
    mg ug ng pg kg g ml dl ul l cm mm nm m mmhg cmh2o kpa mmol umol nmol mol meq iu u h min s d week weeks month months year years bpm hp
    岁 年 月 周 次 片 粒 支 滴 倍 级 期 型 个 秒 名 例 度 % ‰ ° ℃"""
_NUMERALS = "一二两三四五六七八九十百千万半"
# A pressure that is given in kPa and again in mmHg is one pressure.
SECOND_PRESSURE = re.compile(r"(?<=kpa) ?[0-9][0-9./-]*mmhg|(?<=mmhg) ?[0-9][0-9./-]*kpa")
# Words in which a fact's character states no fact; those of the first group say nothing at all.
_SILENT = "以下|以上|下列|上述|如下|情况下|条件下|左右|不仅|不但|不过|无论|是否|能否|可否|非常|女士|男士"
NEUTRAL = re.compile(f"({_SILENT})|大小|前往|目前|先前|内科|外科|未来|除非")
# A stem of these words alone asks nothing without its choices (下列说法正确的是) or the case it points to (该患者最可能的诊断是).
_ASKS_NOTHING = re.compile(
    "(?:下列|以下|关于|上述|其中|各项|选项|描述|内容|何者|哪一?[项个种些]|[的中是为有不对该此本例请患者及与和或应做需给予]|错误|正确|恰当|合适|除外|包括|属于"
    "|病例|患儿|孕妇|产妇|诊断|鉴别|根据|要点|简述|试述|最可能|可能|最佳|首选|首先|治疗|处理|方法|原则|方案|检查|项目|考虑|原因|明确|确诊|进一步|采取"
    "|进行|如何|怎样|什么|目前|此时|下一步|临床|初步|药"
    "|which|what|of|the|following|is|are|not|true|false|correct|incorrect|statements?|except|all|one|about|most|likely|best|next|step|initial"
    "|diagnosis|treatment|management|appropriate|test|patient|this|in|for|his|her| )+"
)
# Words that may differ between two typings of one case.
_FUNCTION_CHARACTERS = (
    "的了着是在有为之其该此这那某属请问应当需要会将被由于对根据依按照与和及并且而则若如果时以情况哪何什么怎样种项名位个例一患者人士他她它"
)
_FUNCTION_WORDS = "a an the is are was were be been of to in on at for and which what who that this these it its please"


def _opposed_pairs(table: dict[str, str]) -> Iterator[tuple[str, str, str]]:
    """Yield (kind, word, opposite) in both directions."""
    for kind, groups in table.items():
        for group in groups.split():
            words = group.split("/")
            yield from ((kind, one, other) for one in words for other in words if one != other)


FUNCTION = frozenset(_FUNCTION_CHARACTERS) | frozenset(_FUNCTION_WORDS.split())
OPPOSED = {(one, other): kind for kind, one, other in _opposed_pairs(_OPPOSITES)}
OPPOSED |= {(one, other): "number" for one in _NUMERALS for other in _NUMERALS if one != other}
OPPOSED_PREFIXES = list(_opposed_pairs(_OPPOSED_PREFIXES))
# What counts when it stands on one side only; 生, 动, 大 and their like are parts of too many other words.
KINDS = {one: kind for (one, _), kind in OPPOSED.items() if kind in ("laterality", "sex") and one not in FUNCTION}
KINDS |= dict.fromkeys(_TRENDS.split(), "polarity") | dict.fromkeys(_NEGATIONS.split(), "negation")
UNITS = frozenset(_UNITS.split())


def opposed(a: str, b: str) -> str | None:
    """The kind of fact in which two words are opposites (高 and 低, male and female, hyper- and hypotension), or None."""
    if (a, b) in OPPOSED:
        return OPPOSED[a, b]
    for kind, one, other in OPPOSED_PREFIXES:
        if a.startswith(one) and b.startswith(other) and len(a) > len(one) + 3 and a[len(one) :] == b[len(other) :]:
            return kind
    return None


def has_subject(key: str) -> bool:
    """Whether a key asks something by itself: it names a subject, or lists the choices that do."""
    return bool(choices(key)) or not _ASKS_NOTHING.fullmatch(stem(key))
