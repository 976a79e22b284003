"""Which differences between two texts may be slips: of the scanner, of the typist, or between two spellings of one word.

A slip replaces a character by one that looks or sounds like it (瞳 and 曈, 胀 and 涨), and the result is rarely another finding. Any
other character in its place may well be one: 误诊 and 漏诊, 液体 and 胶体, 植物性 and 动物性. So the pairs are listed; look-alikes that
tell cases apart in medicine (肝 and 肾, 苓 and 芩, 臂 and 壁, 颌 and 额, 脓 and 浓, 清法 and 消法, 证 and 症) are not among them.

A lost character is a slip only where it says nothing by itself: 类风湿 and 风湿, 甲状旁腺 and 甲状腺, 副伤寒 and 伤寒 are one character
apart, so the characters that may be missing are listed, too.
"""

from __future__ import annotations

import re

MIN_WORD = 6  # letters; two spellings of a shorter English word are told apart by nothing but the dictionary
# Scanners (shape) and typists (sound) take the characters of one group for each other.
_LOOKALIKES = """
    己已巳 末未 人入 日曰 土士 干千于 太犬 天夫 茵菌 襄囊 瞳曈 條条降 燥躁噪 粘黏 粟栗 候侯 潮湖 胀涨 瘀淤 症征 象像 剌刺 隔膈 渗掺 脏赃
    苔台胎 糜靡 溃馈 竭揭 脉眽 虹红 疹诊珍 疸疽 盲肓 饥肌 牌脾 贤肾 模膜 控腔 晴睛 博搏膊 辨辩辫瓣 肘时 失矢 住往 冶治 沾粘 渴喝
    咬咳喀咯 漱嗽 端喘 畜搐 季悸 种肿 溢益 柴紫 钳绀 仓苍 痿萎 卷蜷 孪挛 痊痉 袖抽 炫眩 拴栓 拨拔 折析 平乎 问间 陈阵 付附副 陪部 复覆
    级极 缦缓 幅辐 分份 度渡 作做 坐座 需须 订定 型形 仰抑 璧壁 径经 枝支 札扎 们扪 碗腕 裸踝 宽髋 罗啰 昕听 扣叩 诱透 沦论 溏糖 沈沉
    猾滑 泻泄 痹痺 查査 卤囟 囱囟 末沫 冉再 冀翼 兔免 猴喉 因困 堕坠 搭塔 胞孢 届屈 脊嵴 冒帽 健建 镇慎 折拆 特持 班斑 晰渐 暴爆 材村
    挠桡 稍梢 捡检 慨概 歧岐 历沥 侵浸 碳炭 焦蕉 挟狭 腥猩 瘢癍 绉皱 盆盘 砂沙 祛袪 怯祛 糊湖 缩宿 衰哀 薄簿 虑虚 蔽敝 触独 记纪 体休
    音昔 期朋 热熟 曾增 低抵 急怠 侧则 口囗 复腹 尿屎 扇煽 感惑 染杂 瘙搔 癣藓 苯笨 钠纳 素索 白自 拭试 宫官 卵卯 娩婉 瘫滩摊 损捐 皿血
    嗳暖 接结 疼痛 圧压 淸清 端瑞 躯驱 轴抽 迂迁 退迟 逐遂 释择 钝纯 铃铅 醒腥 雄推 霉梅 闻闷 陡徒 跳眺 聚骤 筛师 摸模 授援 杭抗 贲奔
    帖贴 隆窿 蕈覃 磺黄 挫锉 茸葺"""
# What may be missing in a long text: none of them makes another finding, drug or question of a word that it joins.
MAY_BE_LOST = frozenset("行示见给诉约呈曾仍较很亦也又还者们部状样史属候品使到里即且则来称觉")
LOOKALIKES = frozenset(frozenset((a, b)) for group in _LOOKALIKES.split() for a in group for b in group if a != b)


def is_lookalike(a: str, b: str) -> bool:
    """Whether two characters are taken for each other by scanners or typists."""
    return frozenset((a, b)) in LOOKALIKES


def is_respelling(a: str, b: str) -> bool:
    """Whether two lower-case words are spellings of one: British or American, a doubled letter, two neighbours transposed.

    Another letter makes another word: ureteral and urethral, dysphagia and dysphasia, afferent and efferent.
    """
    if min(len(a), len(b)) < MIN_WORD:
        return False
    if _sound(a) == _sound(b):
        return True
    differing = [i for i, (one, two) in enumerate(zip(a, b, strict=False)) if one != two]
    first = differing[0] if differing else 0
    return len(a) == len(b) and differing == [first, first + 1] and a[first : first + 2] == b[first : first + 2][::-1]


def _sound(word: str) -> str:
    """What British and American spelling and a doubled letter leave: haemorrhage and hemorrhage, tumour and tumor."""
    folded = re.sub("ae|oe", "e", word).replace("our", "or").replace("isation", "ization").replace("yse", "yze").replace("ise", "ize")
    return re.sub(r"(.)\1", r"\1", folded)
