"""People's names, found by context alone: a label (姓名：), a role (主治医师…), or what follows a name (…，男，45岁).

No list of words tells a name from a word, so a bare name is never looked for. Surnames begin many medical words (高血压, 白细胞, 黄疸,
周围神经); characters that end no given name, and words that look like one, are listed below. Anonymised names (张某, 李先生, 王××) are
left alone.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from medcot.pii_rules import Rule

_SINGLE = (
    "王李张刘陈杨黄赵吴周徐孙马朱胡郭何高林郑谢罗梁宋唐许韩冯邓曹彭曾肖田董袁潘于蒋蔡余杜叶程苏魏吕丁任沈姚卢姜崔钟谭陆汪范"
    "金石廖贾夏韦付方白邹孟熊秦邱江尹薛闫段雷侯龙史陶黎贺顾毛郝龚邵万钱严覃武戴莫孔向汤温康施文牛樊葛邢安齐易乔伍庞颜倪庄聂"
    "章鲁岳翟殷詹申欧耿关兰焦俞左柳甘祝包宁尚符舒阮柯纪梅童凌毕单季裴霍涂成苗谷曲盛冉翁蓝路游靳管柴蒙鲍华喻祁房蒲滕解牟艾常"
    "尤卫阳时穆农司古吉缪简车项连芦麦褚娄窦戚岑景党宫费卜冷晏席闵虞宗隋粟佟查佘郜阚巩邬敖屈甄储"
)
_DOUBLES = "欧阳 司马 上官 诸葛 司徒 皇甫 尉迟 长孙 慕容 夏侯 东方 令狐 公孙 轩辕 宇文 端木 南宫 闻人"
_DOUBLE = tuple(_DOUBLES.split())
# Characters that end no given name: function words, and what medical text puts after a surname's character.
_NOT_GIVEN = (
    "的了着过是有无不没在和与及或而且但因为由于从到对把被将会能可要应该须需者们这那哪何什么怎几多少高低重轻急慢时日年前后上下"
    "左右内外间热冷寒痛痒胀肿疼血尿便痰咳吐泻汗晕胸腹头颈背腰肢手足脚眼耳鼻口舌喉皮肤骨肝胆脾胃肺肾肠膀胱脑神经压脉搏呼吸"
    "病症炎癌瘤疮疹疸染毒伤折裂药针术治疗检查验测量服用食饮睡眠醒识言语质型期级度率值数细胞菌体液素酸酶带苔色脓疡囊腺"
    "管障碍减退增加疾患医院科室就诊入住感觉出现发作诉某先生女士性氏等每次约仅只也都还又再很最较更呈示见伴身围径膜腔腿顶圈匙裔镜片剂"
    "规当即均既从始终未已刚如虽然否则遂按随此其它他她我你您谁籍侧龄状"
)
# Words that begin with a surname and could be a name by their characters.
_WORDS = (
    "万州 严格 于是 任务 任性 任意 何人 何种 余姚 党员 全科 兰州 关东 关中 关心 关节 农村 农民 凌晨 包块 包头 包皮 包茎 华人 华裔 "
    "单发 单独 单纯 单身 古怪 古稀 司机 吉林 向外 向来 夏天 夏季 孔源 季节 宁夏 宁波 安全 安徽 安排 安静 宗教 宫外 宫缩 尤其 常州 "
    "常熟 常见 常规 平卧 平时 平素 康健 康复 张嘴 张大 张开 徐州 成人 成年 成熟 成都 房事 房颤 文化 文盲 方便 方才 方案 方法 施工 "
    "施救 时常 明确 易怒 易惊 易激 曲张 曲折 杭州 林业 林区 柳州 柴胡 梁上 梅州 梧州 武术 武警 段落 毛发 毛躁 水平 江南 江苏 江西 "
    "汤剂 沙哑 海南 温和 温州 温暖 温热 游泳 游走 焦虑 焦躁 甘肃 田间 申报 申明 申请 白天 白昼 白领 盛夏 石棉 石油 石膏 程序 章节 "
    "童年 简单 管床 管理 纪录 罗音 苏州 苗族 苗条 蒙古 解便 解决 解痉 解释 解除 许久 许可 谢绝 谷丙 谷草 费力 费劲 贺州 路人 车床 "
    "车祸 连夜 连日 连续 连连 郑州 金属 金黄 阳光 阳台 阳春 陈旧 陈述 雷击 雷诺 霍乱 项目 顾虑 马上 高中 高位 高兴 高危 高大 高度 "
    "高空 高级 鲁莽 麻醉 黄昏 齐齐 龙华 龙岩 喻嘉言 张力 压力 马力 "
)
_STOP = frozenset(_WORDS.split())
_BAD = re.compile(f"[{_NOT_GIVEN}×*]")
_NO_NAME = re.compile(
    "不详|不明|未知|未填|保密|匿名|同上|患者|病人|某|及|与|年龄|性别|标注|和|为空|信息|电话|地址|填写|核对|General|Syndrome|Disease"
)

_HAN = "[\u4e00-\u9fff]"
_NAME = f"(?P<v>(?:{'|'.join(_DOUBLE)}|[{_SINGLE}]){_HAN}{{1,2}})"
_PATIENT = "(?:患者|病人|患儿|产妇|孕妇|伤者|死者|病员|病患|受试者|被鉴定人)"
_ROLE = "(?:主治|主管|经治|住院|管床|责任|主任|接诊|值班|主刀|首诊|手术|麻醉|报告|审核)(?:医师|医生|护士)"
_SIGNED = f"(?:{_ROLE}|联系人|签名|签字|记录者?|主刀|检查者|报告者|审核者?|家属|监护人|陪护?人|委托人)"
_END = r"(?=[，,。.;、()/\s签]|$|查房|记录|会诊|告知|负责|主刀|认为|建议|陪|代)"
_STOP_MARK = r"(?=[，,。.;、\s]|$)"
_ABOUT = r"(?=[，,、(]?\s*(?:[男女](?![童婴])|性别|现?年?\s?[0-9一二三四五六七八九十]{1,3}\s?(?:岁|个?月|天)))"
_RELATIVE = "(?:父亲?|母亲?|妻子?|丈?夫|儿子|女儿|家属|家长|监护人)"
_ENGLISH = (
    r"(?:(?:Mr|Mrs|Ms|Miss|Dr|Prof)\.? )?"
    r"(?P<v>[A-Z][a-z]+(?:['-][A-Z]?[a-z]+)?(?: [A-Z]\.)?(?: (?:van |de |von )?[A-Z][A-Za-z'-]+){1,2})"
)
_LABEL_EN = r"(?:[Pp]atient(?:'s)?(?: [Ff]ull)? [Nn]ame|[Nn]ame of (?:the )?[Pp]atient|PATIENT NAME|[Nn]ext of kin)"
_LINE_EN = (
    r"(?:(?:^|(?<=[\n.;]))\s*(?:[Nn]ame|NAME|[Pp]atient)|[Aa]ttending(?: physician)?|[Rr]eferred by|[Ss]igned(?: by)?|[Dd]ictated by)"
)
# What such names need in raw text, for nearly every text has the words 患者 and 医生.
_FIRST = _SINGLE + "".join(word[0] for word in _DOUBLE)
_AFTER = "，,、(（\\s男女性现年因于主自入来首0-9０-９一二三四五六七八九十"
_NAMED = re.compile(rf"{_PATIENT}[\s:：]?[{_FIRST}].{{1,3}}[{_AFTER}]")
_COLON = re.compile(rf"{_SIGNED}(?:姓名)?\s?[:：]")
_TITLED = re.compile(rf"{_ROLE}\s?[{_FIRST}]")
_BEFORE = re.compile(rf"[{_FIRST}].{{1,2}}(?:(?:副?主任|主治|住院)?(?:医生|医师|大夫|护士|教授)|主任)")


def _any(certain: bool) -> Callable[[str, re.Match[str]], bool | None]:
    return lambda _, match: None if _NO_NAME.search(match.group("v")) else certain


def _chinese(certain: bool) -> Callable[[str, re.Match[str]], bool | None]:
    return lambda _, match: certain if _is_name(match.group("v")) else None


def _is_name(name: str) -> bool:
    given = name[2:] if name.startswith(_DOUBLE) else name[1:]
    listed = name[:2] in _STOP or name in _STOP or _NO_NAME.search(name)
    return bool(given) and not _BAD.search(given) and not listed


NAME_RULES = [
    Rule("name", rf"姓\s?名\s?[:(\s]\s?(?P<v>{_HAN}{{2,4}}(?:·{_HAN}{{1,6}})?)(?=[，,。.;、)\s]|$|性别|年龄|男|女)", _any(True), "姓"),
    Rule("name", rf"姓名{_NAME}(?=[，,。.;、\s]|$|性别|年龄|男|女)", _chinese(True), "姓名"),
    Rule("name", rf"{_SIGNED}(?:姓名)?\s?:\s?{_NAME}{_END}", _chinese(True), form=_COLON),
    Rule("name", rf"{_ROLE}\s?{_NAME}{_END}", _chinese(True), form=_TITLED),
    Rule("name", rf"{_PATIENT}\s?:?\s?{_NAME}{_ABOUT}", _chinese(True), form=_NAMED),
    Rule("name", rf"{_PATIENT}\s?{_NAME}(?=因|于[0-9]|主诉|自述|入院|来院|来诊|首诊)", _chinese(False), form=_NAMED),
    Rule("name", rf"(?:我叫|我的名字是){_NAME}{_STOP_MARK}", _chinese(True), "我叫|我的名字是"),
    Rule("name", rf"(?:名叫|叫做){_NAME}(?=[，,。.;、\s]|$|的(?:患|病|男|女|老|孩|小))", _chinese(False), "名叫|叫做"),
    Rule("name", rf"{_RELATIVE}{_NAME}(?=陪|代诉|签|[(,，]?\s?(?:电话|手机|联系))", _chinese(False), "陪|代诉|签|电话|手机|联系"),
    Rule(
        "name",
        rf"(?:^|[，。;、\s(由请经向找]){_NAME}(?=(?:副?主任|主治|住院)?(?:医生|医师|大夫|护士长?|教授)|主任(?:会诊|查房|指示))",
        _chinese(False),
        form=_BEFORE,
    ),
    Rule("name", rf"{_LABEL_EN}\s?:?\s?{_ENGLISH}", _any(True), "patient name|patient's|patient full|name of|next of kin"),
    Rule("name", rf"{_LINE_EN}\s?:\s?{_ENGLISH}", _any(True), "name:|name：|patient:|attending|referred by|signed|dictated by"),
    Rule("name", rf"(?:patient|man|woman|boy|girl|male|female|child),? (?:is )?(?:named|called) {_ENGLISH}", _any(True), "named |called "),
    Rule("name", rf"[Mm]y name is {_ENGLISH}", _any(True), "my name is"),
    Rule("name", r"(?<![A-Za-z])(?:Mr|Mrs|Ms)\.? (?P<v>[A-Z][a-z]+(?: [A-Z]\.)? [A-Z][a-z]+)(?![a-z])", _any(False), "mr.|mr |mrs|ms.|ms "),
]
