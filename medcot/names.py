"""People's names, found by context alone: a label (姓名：), a role (主治医师…), or what follows a name (…，男，45岁).

No list of words tells 张口 from 张扣, so a bare name is never looked for. Surnames begin many medical words (高血压, 白细胞, 黄疸,
周围神经), and characters of function and disease words end no name: both lists below keep them apart. Anonymised names (张某, 李先生,
王××) are none.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

_SINGLE = (
    "王李张刘陈杨黄赵吴周徐孙马朱胡郭何高林郑谢罗梁宋唐许韩冯邓曹彭曾肖田董袁潘于蒋蔡余杜叶程苏魏吕丁任沈姚卢姜崔钟谭陆汪范"
    "金石廖贾夏韦付方白邹孟熊秦邱江尹薛闫段雷侯龙史陶黎贺顾毛郝龚邵万钱严覃武戴莫孔向汤温康施文牛樊葛邢安齐易乔伍庞颜倪庄聂"
    "章鲁岳翟殷詹申欧耿关兰焦俞左柳甘祝包宁尚符舒阮柯纪梅童凌毕单季裴霍涂成苗谷曲盛冉翁蓝路游靳管柴蒙鲍华喻祁房蒲滕解牟艾"
    "尤卫阳时穆农司古吉缪简车项连芦麦褚娄窦戚岑景党宫费卜冷晏席闵虞宗隋"
)
_DOUBLE = ["欧阳", "司马", "上官", "诸葛", "司徒", "皇甫", "尉迟", "长孙", "慕容", "夏侯", "东方", "令狐", "公孙", "轩辕", "宇文", "端木", "南宫", "闻人"]
# Characters that end no given name: function words, and what medical text puts after a surname's character.
_NOT_GIVEN = (
    "的了着过是有无不没在和与及或而且但因为由于从到对把被将会能可要应该须需者们这那哪何什么怎么几多少高低重轻急慢时日年前后上下"
    "左右内外间热冷寒痛痒胀肿疼血尿便痰咳吐泻汗晕胸腹头颈背腰肢手足脚眼耳鼻口舌喉皮肤骨肝胆脾胃肺肾肠膀胱脑神经压脉搏呼吸"
    "病症炎癌瘤疮疹疸染毒伤折裂药针术治疗检查验测量服用食饮睡眠醒识言语质型期级度率值数细胞菌体液素酸酶带苔色脓疡囊腺"
    "管障碍减退增加疾患医院科室就诊入住感觉出现发作诉某先生女士性氏等每次约仅只也都还又再很最较更呈示见伴易曾身围径张力膜腔"
    "规便当即均既从始终未已刚才若如果虽然否则遂按随此其它他她我你您谁×*"
)
_STOP = frozenset(["康复", "麻醉", "马上", "方便", "方法", "方案", "向来", "于是", "任意", "全科", "安排", "安全", "安静", "成人", "成年", "时常", "常规", "文化", "单纯", "单独", "连续", "管床"])
_BAD = re.compile(f"[{re.escape(_NOT_GIVEN)}]")
_SURNAME = f"(?:{'|'.join(_DOUBLE)}|[{_SINGLE}])"
_HAN = "[\u4e00-\u9fff]"
_NAME = f"(?P<v>{_SURNAME}{_HAN}{{1,2}})"
_PATIENT = "(?:患者|病人|患儿|产妇|孕妇|伤者|死者|病员|病患|受试者|被鉴定人)"
_ROLE = "(?:主治|主管|经治|住院|管床|责任|主任|接诊|值班|主刀|首诊|手术|麻醉|报告|审核)(?:医师|医生|护士)"
_SIGNED = f"(?:{_ROLE}|联系人|签名|签字|记录者?|主刀|检查者|报告者|审核者?|家属|监护人|陪护人?|委托人)"
_AFTER = r"(?=[，,。.;、()\s签]|$|查房|记录|会诊|告知|负责|主刀|认为|建议|陪|代)"
_ABOUT = r"(?=[，,、(]?\s*(?:[男女](?![童婴])|性别|现?年?\s?[0-9一二三四五六七八九十]{1,3}\s?(?:岁|个?月|天)))"
_ENGLISH = (
    r"(?:(?:Mr|Mrs|Ms|Miss|Dr|Prof)\.? )?(?P<v>[A-Z][a-z]+(?:['-][A-Z]?[a-z]+)?(?: [A-Z]\.)?(?: (?:van |de |von )?[A-Z][A-Za-z'-]+){1,2})"
)

# Pattern, whether it is certain, and whether the value must look like a Chinese name with a usual surname.
_PATTERNS = [
    (rf"姓\s?名\s?[:(]?\s?(?P<v>{_HAN}{{2,4}}(?:·{_HAN}{{1,6}})?)(?=[，,。.;、)\s]|$|性别|年龄|男|女)", True, False),
    (rf"{_SIGNED}(?:姓名)?\s?:\s?{_NAME}{_AFTER}", True, True),
    (rf"{_ROLE}{_NAME}{_AFTER}", True, True),
    (rf"{_PATIENT}\s?:?\s?{_NAME}{_ABOUT}", True, True),
    (rf"{_PATIENT}\s?{_NAME}(?=因|于[0-9]|主诉|自述|入院|来院|来诊|首诊)", False, True),
    (rf"(?:我叫|我的名字是|本人姓名){_NAME}(?=[，,。.;、\s]|$)", True, True),
    (rf"(?:名叫|叫做){_NAME}(?=[，,。.;、\s]|$|的(?:患|病|男|女|老|孩|小))", False, True),
    (rf"(?:其|患者|患儿)?(?:父亲?|母亲?|妻子?|丈?夫|儿子|女儿){_NAME}(?=陪|代诉|签|[(,，]?\s?(?:电话|手机|联系))", False, True),
    (rf"(?:^|[，。;、\s(由请经向找]){_NAME}(?=(?:副?主任|主治|住院)?(?:医生|医师|大夫|护士长?|教授))", False, True),
    (
        rf"(?:[Pp]atient(?:'s)?(?: [Ff]ull)? [Nn]ame|[Nn]ame of (?:the )?[Pp]atient|PATIENT NAME|[Nn]ext of kin)\s?:?\s?{_ENGLISH}",
        True,
        False,
    ),
    (
        rf"(?:(?:^|(?<=[\n.;]))\s*(?:[Nn]ame|NAME|[Pp]atient)|[Aa]ttending(?: physician)?|[Rr]eferred by|[Ss]igned(?: by)?|[Dd]ictated by)\s?:\s?{_ENGLISH}",
        True,
        False,
    ),
    (rf"(?:patient|man|woman|boy|girl|male|female|child),? (?:is )?(?:named|called) {_ENGLISH}", True, False),
    (rf"[Mm]y name is {_ENGLISH}", True, False),
    (r"\b(?:Mr|Mrs|Ms)\.? (?P<v>[A-Z][a-z]+(?: [A-Z]\.)? [A-Z][a-z]+)\b(?!'s (?:disease|syndrome|sign|test))", False, False),
]
_RULES = [(re.compile(pattern), certain, chinese) for pattern, certain, chinese in _PATTERNS]
_NO_NAME = re.compile("不详|不明|未知|未填|保密|匿名|同上|患者|病人|某|及|与|年龄|性别|标注|和|为空|信息|电话|地址|填写|以及|核对")


def find_names(text: str) -> Iterator[tuple[int, int, bool]]:
    """Yield start, end and certainty of every name; the text has half-width digits and punctuation but for ，。、·."""
    for pattern, certain, chinese in _RULES:
        for match in pattern.finditer(text):
            start, end = match.span("v")
            end = _end(text, start, end) if chinese else end
            if end and not _NO_NAME.search(match.group("v")):
                yield start, end, certain


def _end(text: str, start: int, end: int) -> int:
    """Where a Chinese name ends, or 0 where the characters are no name."""
    name = text[start:end]
    given = name[2:] if name[:2] in _DOUBLE else name[1:]
    return 0 if not given or _BAD.search(given) or name in _STOP or name[:2] in _STOP else end
