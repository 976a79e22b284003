"""Plant flaws among clean rows, and say what becomes of each: the lines of `manifest.csv`."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any

from compose import Dice, Row, fill, tidy
from edits import REASONING_EDITS, edit, everywhere, near_question, other_side, without_negation

OVER_LONG_CHARS = 2600

BROKEN_LINES: list[tuple[str, Callable[[str], str]]] = [
    ("truncated line", lambda line: line[: len(line) * 2 // 3]),
    ("Python quotes instead of JSON", lambda line: repr(json.loads(line))),
    ("a colon is missing", lambda line: line.replace('"Response": ', '"Response" ', 1)),
    ("text after the object", lambda line: line + " # 待复核"),
]


@dataclass(frozen=True, slots=True)
class Planted:
    """One planted line; partner is the clean row that it was made from, if that stays in the corpus."""

    line: str
    flaw: str
    fate: str
    rule: str = ""
    note: str = ""
    partner: Row | None = None


def to_line(row: Row, **changes: Any) -> str:
    """The row as one JSON line in the naming of medical-o1; `changes` overrides fields, and a field set to `...` is left out."""
    fields = {"Question": row.question, "Complex_CoT": row.reasoning, "Response": row.answer, **changes}
    return json.dumps({name: value for name, value in fields.items() if value is not ...}, ensure_ascii=False)


class Planter:
    """Makes every flaw; each takes its own clean partner, or its own spare row that is not in the corpus otherwise."""

    def __init__(self, clean: list[Row], spare: list[Row], facts: dict[str, Any], frames: dict[str, Any], dice: Dice) -> None:
        self._clean, self._spare, self._facts, self._frames, self._dice = list(clean), list(spare), facts, frames, dice

    def plant(self, benchmark: list[dict[str, Any]]) -> list[Planted]:
        """All planted lines, in a fixed order."""
        makers = (self._exact, self._near, self._conflicts, self._refused, self._personal, self._over_long)
        return [flaw for maker in makers for flaw in maker()] + list(self._contaminated(benchmark))

    def _take(self, lang: str, wanted: Callable[[Row], bool]) -> Row:
        return self._clean.pop(next(i for i, row in enumerate(self._clean) if row.lang == lang and wanted(row)))

    def _changed(self, lang: str, change: Callable[[Row], Row | None]) -> tuple[Row, Row]:
        """A clean partner that the change applies to, and the changed row."""
        index, copy = next((i, copy) for i, row in enumerate(self._clean) if row.lang == lang and (copy := change(row)))
        return self._clean.pop(index), copy

    def _fresh(self, lang: str) -> Row:
        return self._spare.pop(next(i for i, row in enumerate(self._spare) if row.lang == lang))

    def _exact(self) -> Iterator[Planted]:
        copies: list[tuple[str, str, Callable[[str], str]]] = [
            ("zh", "raw-identical", lambda text: text),
            ("zh", "raw-identical", lambda text: text),
            ("zh", "raw-identical", lambda text: text),
            ("en", "raw-identical", lambda text: text),
            ("zh", "half-width punctuation", lambda text: text.translate(str.maketrans("，？；", ",?;"))),
            ("zh", "half-width punctuation", lambda text: text.translate(str.maketrans("，？；", ",?;"))),
            ("zh", "full-width digits", lambda text: text.translate(str.maketrans("0123456789", "０１２３４５６７８９"))),
            ("zh", "line breaks between sentences", lambda text: text.replace("。", "。\n")),
            ("zh", "spaces around the text", lambda text: f"  {text} \t"),
            ("en", "doubled spaces", lambda text: text.replace(" ", "  ")),
        ]
        for lang, note, change in copies:
            row = self._take(lang, lambda row: not re.search(r"\d[，；]\d", row.question + row.reasoning + row.answer))
            copy = replace(row, question=change(row.question), reasoning=change(row.reasoning), answer=change(row.answer))
            yield Planted(to_line(copy), "exact_copy", "one_of_pair", "exact_copy", note=note, partner=row)

    def _near(self) -> Iterator[Planted]:
        for lang in ("zh",) * 7 + ("en",) * 3:
            row, copy = self._changed(lang, near_question)
            yield Planted(to_line(copy), "near_copy", "one_of_pair", "near_duplicate", note="question retyped", partner=row)
        for _ in range(3):
            row = self._take("zh", lambda row: edit(row.reasoning, REASONING_EDITS) != row.reasoning)
            copy = replace(row, reasoning=edit(row.reasoning, REASONING_EDITS))
            yield Planted(to_line(copy), "near_copy_same_question", "one_of_pair", "exact_question", note="reasoning edited", partner=row)

    def _conflicts(self) -> Iterator[Planted]:
        variants: list[tuple[str, str, Callable[[Row], Row | None]]] = [
            *[(lang, "dose_variant", self._other_dose) for lang in ("zh", "zh", "zh", "zh", "zh", "en")],
            *[(lang, "negation_variant", without_negation) for lang in ("zh", "zh", "zh", "zh", "zh", "en")],
            *[(lang, "laterality_variant", other_side) for lang in ("zh", "en")],
            *[(lang, "age_variant", self._other_age) for lang in ("zh", "en")],
            ("zh", "sex_variant", self._other_sex),
        ]
        for lang, flaw, vary in variants:
            row, copy = self._changed(lang, vary)
            yield Planted(to_line(copy), flaw, "kept", "conflict", note="both rows are kept for review", partner=row)

    def _other_dose(self, row: Row) -> Row | None:
        """The row with its dose doubled wherever it is named; the question names it."""
        dose = self._facts[row.disease][row.lang]["dose"]
        doubled = re.sub(r"\d+(\.\d+)?", lambda match: f"{(Decimal(match.group()) * 2).normalize():f}", dose, count=1)
        if row.kind != "dose" or dose not in row.question:
            return None
        return everywhere(row, lambda text: text.replace(dose, doubled))

    def _other_age(self, row: Row) -> Row | None:
        _, high = self._facts[row.disease]["age"]
        age = row.age + 6 if row.age + 6 <= high else row.age - 6
        if row.question.count(str(row.age)) != 1 or age < 14:
            return None
        return replace(row, question=row.question.replace(str(row.age), str(age)))

    def _other_sex(self, row: Row) -> Row | None:
        if self._facts[row.disease]["sex"] != "any" or len(re.findall("[男女]", row.question)) != 1:
            return None
        return replace(row, question=row.question.translate(str.maketrans("男女", "女男")))

    def _refused(self) -> Iterator[Planted]:
        for note, damage in BROKEN_LINES:
            yield Planted(damage(to_line(self._fresh("zh"))), "broken_json", "refused", "invalid_json", note=note)
        yield Planted(to_line(self._fresh("zh"), Complex_CoT=...), "no_reasoning", "refused", "missing_field", note="field left out")
        yield Planted(to_line(self._fresh("zh"), Response=None), "null_answer", "refused", "missing_field", note="null")
        yield Planted(to_line(self._fresh("zh"), Response=""), "empty_answer", "refused", "empty_field", note="empty text")
        yield Planted(to_line(self._fresh("en"), Complex_CoT=" \n "), "blank_reasoning", "refused", "empty_field", note="only spaces")
        yield Planted(to_line(self._fresh("zh"), Response=20), "number_answer", "refused", "not_text", note="a number")
        yield Planted(to_line(self._fresh("zh"), Complex_CoT=[1, 2]), "list_reasoning", "refused", "not_text", note="a list")
        for lang in ("zh", "en"):
            row = self._fresh(lang)
            line = to_line(row, Response=row.question)
            yield Planted(line, "answer_is_question", "refused", "answer_equals_question", note="the answer repeats the question")
        yield from self._control_tokens()

    def _control_tokens(self) -> Iterator[Planted]:
        places = [
            ("zh", "reasoning", "<|im_end|>"),
            ("zh", "answer", "</think>"),
            ("zh", "question", "<｜User｜>"),
            ("zh", "reasoning", "<think>"),
            ("en", "answer", "<|endoftext|>"),
        ]
        for lang, field, token in places:
            row = self._fresh(lang)
            text = getattr(row, field)
            cut = text.rindex("，" if lang == "zh" else " ") + 1
            spoiled = replace(row, **{field: text[:cut] + token + text[cut:]})
            yield Planted(to_line(spoiled), "control_token", "refused", "control_token", note=f"{token} in the {field}")

    def _personal(self) -> Iterator[Planted]:
        number = fake_id("999999", "19010203", "004")
        notes = [
            ("zh", "id number", "pii_id_number", f"（身份证号{number}）"),
            ("zh", "mobile number", "pii_mobile", "（联系电话15400000012）"),
            ("zh", "e-mail", "pii_email", "（报告请发 wang.fictitious@example.com）"),
            ("zh", "hospital number", "pii_record_number", "（住院号：00001234）"),
            ("zh", "two items", "pii_record_number pii_mobile", "（门诊号：M0000567，家属手机15400000034）"),
            ("en", "e-mail", "pii_email", " Send the report to test.patient@example.com."),
        ]
        for lang, note, rules, addition in notes:
            row = self._fresh(lang)
            line = to_line(replace(row, question=row.question + addition))
            yield Planted(line, "personal_data", "kept", rules, note=f"{note}, fictitious")

    def _over_long(self) -> Iterator[Planted]:
        diseases = self._dice.sample(list(self._facts), len(self._facts))
        for number, lang in enumerate(("zh", "zh", "zh", "en")):
            row = self._fresh(lang)
            step = len(diseases) // 3
            some = diseases[number * step : (number + 1) * step] if lang == "zh" else diseases[:11]
            walk = "".join(_paragraph(self._facts[disease][lang], lang) for disease in some if disease != row.disease)
            assert len(walk) > OVER_LONG_CHARS
            line = to_line(replace(row, reasoning=walk + row.reasoning))
            yield Planted(line, "over_long", "removed", "cutoff_len", note=f"{len(walk)} characters of further differentials")

    def _contaminated(self, benchmark: list[dict[str, Any]]) -> Iterator[Planted]:
        for index, with_choices in ((1, True), (6, True), (9, False), (15, True)):
            item = benchmark[index]
            lang = "zh" if re.search("[\u4e00-\u9fff]", item["question"]) else "en"
            letters = dict(zip("ABCD", item["choices"], strict=True))
            listed = "\n" + "\n".join(f"{letter}. {choice}" for letter, choice in letters.items())
            slots = {"right": letters[item["answer"]], "letter": item["answer"], "why": item["explanation"]}
            frames = self._frames[lang]["exam"]
            question = item["question"] + (listed if with_choices else "")
            row = Row(question, fill(frames["reasoning"], slots), fill(frames["answer"], slots), lang, "", "", 0)
            yield Planted(to_line(row), "benchmark_question", "removed", "contaminated", note=f"item {item['id']}")


def _paragraph(text: dict[str, Any], lang: str) -> str:
    """One more differential, thought through at length."""
    if lang == "zh":
        frame = (
            "再把{name}过一遍：它常见{a}、{b}，也可以有{c}；机制上，{mechanism}；要落实得做{test}，典型结果是{finding}；"
            "治疗上用{drug}，{dose}，{caution}；和它相似的{differential}则{differ}。这些与眼前的病人对不上，先放下。"
        )
    else:
        frame = (
            "Next I go through {name}. It brings {a}, {b} and {c}, because {mechanism}. The test is {test}, to {test_aim}, and then "
            "{finding}. Its treatment is {drug}, {dose}; {caution}. Its neighbour, {differential}, {differ}. None of this fits here. "
        )
    first = {key: (value[0] if isinstance(value, list) else value).split(" | ")[0] for key, value in text.items()}
    signs = {slot: sign.split(" | ")[0] for slot, sign in zip("abc", text["signs"], strict=False)}
    side = "左" if lang == "zh" else "left"
    return tidy(fill(frame, {**first, **signs})).replace("<side>", side) + ("" if lang == "zh" else " ")


def fake_id(region: str, date: str, serial: str) -> str:
    """An 18-digit number with a valid check digit (GB 11643) for a region that does not exist."""
    digits = region + date + serial
    weights = [2 ** (17 - i) % 11 for i in range(17)]
    total = sum(int(digit) * weight for digit, weight in zip(digits, weights, strict=True))
    return digits + "10X98765432"[total % 11]
