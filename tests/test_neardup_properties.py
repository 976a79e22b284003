"""Near-duplicates against a second implementation in plain Python sets: witnesses, recall, chains."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from itertools import combinations, pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medcot.key_index import QUESTION, ROW, KeyParams, near_pairs
from medcot.minhash import reliable_from
from medcot.neardup import Result, deduplicate, rank
from medcot.statistics import lower_bound

HAN = (
    "患者男女岁反复胸痛年诊断治疗血压升高发热咳嗽腹泻肺炎心绞梗死糖尿病妊娠期妇儿童老人检查首选药物手术前后并发症临床表现最可能原因肝肾功能"
)
WORDS = [
    "fever",
    "cough",
    "renal",
    "hepatic",
    "dose",
    "acute",
    "pain",
    "rash",
    "chronic",
    "oral",
    "liver",
    "heart",
    "lung",
    "blood",
    "what",
]
MANY = [chr(point) for point in range(0x5000, 0x9000)]


def plain_tokens(text: str) -> list[str]:
    """Tokens of a text of Han characters and lower-case words without anything that a key folds."""
    return re.findall(r"[\u4e00-\u9fff]|[a-z]+", text)


def plain_jaccard(one: str, other: str, size: int) -> float:
    sets = []
    for text in (one, other):
        parts = plain_tokens(text)
        length = min(size, len(parts))
        sets.append({tuple(parts[i : i + length]) for i in range(len(parts) - length + 1)})
    return len(sets[0] & sets[1]) / len(sets[0] | sets[1])


def run(texts: Sequence[str], params: KeyParams) -> Result:
    ids = [f"r{i:03d}" for i in range(len(texts))]
    return deduplicate(ids, {"row": (texts, params)}, [rank([t], i) for t, i in zip(texts, ids, strict=True)], 1)


def sentence(generator: random.Random, length: int) -> list[str]:
    words = HAN if generator.random() < 0.5 else WORDS
    return generator.choices(words, k=length)


def edited(parts: Sequence[str], number: int, generator: random.Random) -> list[str]:
    """A copy with tokens overwritten, left out or put in."""
    copy = list(parts)
    for _ in range(number):
        place = generator.randrange(len(copy))
        other = generator.choice(HAN if copy[place] in HAN else WORDS)
        copy[place : place + 1] = generator.choice(([other], [] if len(copy) > 1 else [other], [copy[place], other]))
    return copy


@st.composite
def corpora(draw: st.DrawFn) -> list[str]:
    """Families of texts, each made from another of its family by a few edits."""
    generator = random.Random(draw(st.integers(0, 2**32)))
    texts: list[list[str]] = []
    for _ in range(draw(st.integers(1, 4))):
        family = [sentence(generator, draw(st.sampled_from([4, 15, 60, 250])))]
        for _ in range(draw(st.integers(0, 6))):
            family.append(edited(generator.choice(family), draw(st.integers(0, 12)), generator))
        texts += family
    return [" ".join(parts) + "." for parts in texts]


@settings(max_examples=60, deadline=None)
@given(corpora(), st.sampled_from([(QUESTION, 0.5), (QUESTION, 0.4), (ROW, 0.8), (ROW, 0.9)]))
def test_every_removal_has_a_kept_witness_at_the_threshold(texts: list[str], choice: tuple[KeyParams, float]) -> None:
    params = choice[0].model_copy(update={"threshold": choice[1], "min_alignment": 0.0, "strict_below": 0})
    result = run(texts, params)
    text_of = {f"r{i:03d}": text for i, text in enumerate(texts)}
    assert sorted([*result.kept, *(removal.id for removal in result.removals)]) == sorted(text_of)
    for removal in result.removals:
        assert removal.related_id in result.kept
        similarity = plain_jaccard(text_of[removal.id], text_of[removal.related_id], params.shingle_size)
        if plain_tokens(text_of[removal.id]) == plain_tokens(text_of[removal.related_id]):
            assert removal.similarity == 1.0
        elif removal.rule == "near_duplicate":
            assert similarity >= params.threshold
            assert removal.similarity == pytest.approx(similarity, abs=1e-12)
    # Whoever is kept is no duplicate of another one kept: a second run removes nothing.
    assert run([text_of[row] for row in result.kept], params).removals == []


@settings(max_examples=40, deadline=None)
@given(corpora(), st.sampled_from([(QUESTION, 0.5), (ROW, 0.8)]))
def test_every_pair_is_near_as_plain_sets_say(texts: list[str], choice: tuple[KeyParams, float]) -> None:
    params, threshold = choice
    keys = sorted({" ".join(plain_tokens(text)) for text in texts})
    found = {(a, b): value for a, b, value in near_pairs(keys, params, 1)}
    expected = {(a, b): plain_jaccard(keys[a], keys[b], params.shingle_size) for a, b in combinations(range(len(keys)), 2)}
    for pair, value in found.items():
        assert value == pytest.approx(expected[pair], abs=1e-12)
        assert value >= threshold
    # Well above the threshold a miss has odds below 1 in 10^6.
    sure = threshold + (1 - threshold) / 2
    assert {pair for pair, value in expected.items() if value >= sure} <= set(found)


@pytest.mark.parametrize("params", [ROW, QUESTION], ids=["row", "question"])
def test_planted_pairs_just_above_the_threshold_are_found_and_no_others(params: KeyParams) -> None:
    """Over a thousand pairs at or just above the threshold: at least 0.995 of them, and 95 % sure of 0.99."""
    generator = random.Random(2)
    texts: list[str] = []
    while len(texts) < 2400:
        base = generator.choices(MANY, k=60)
        copy = base.copy()
        for place in generator.sample(range(60), generator.randrange(1, 3 if params is ROW else 7)):
            copy[place] = chr(generator.randrange(0x5000, 0x9000))
        if params.threshold <= plain_jaccard("".join(base), "".join(copy), params.shingle_size) <= params.threshold + 0.2:
            texts += ["".join(base), "".join(copy)]
    keys = sorted(set(texts))
    place_of = {key: i for i, key in enumerate(keys)}
    planted = {tuple(sorted((place_of[one], place_of[other]))) for one, other in zip(texts[::2], texts[1::2], strict=True)}
    found = {(a, b) for a, b, _ in near_pairs(keys, params, 1)}
    assert found <= planted  # texts of different families share nothing
    assert len(found) / len(planted) >= 0.995
    assert lower_bound(len(found), len(planted), 0.95) >= 0.99


@pytest.mark.parametrize("params", [ROW, QUESTION], ids=["row", "question"])
def test_below_the_threshold_most_pairs_are_found_down_to_the_floor(params: KeyParams) -> None:
    """What the histogram shows to the left of the threshold: of the pairs next above the floor at least nine in ten."""
    floor = reliable_from(params.threshold, params.num_perm)
    generator = random.Random(3)
    texts: list[str] = []
    while len(texts) < 800:
        base = generator.choices(MANY, k=60)
        copy = base.copy()
        for place in generator.sample(range(60), generator.randrange(2, 14)):
            copy[place] = generator.choice(MANY)
        if floor <= plain_jaccard("".join(base), "".join(copy), params.shingle_size) < floor + 0.05:
            texts += ["".join(base), "".join(copy)]
    keys = sorted(set(texts))
    assert floor < params.threshold
    found = list(near_pairs(keys, params, 1, floor))
    assert len(found) / (len(texts) / 2) >= 0.9
    assert all(floor <= value < params.threshold for _, _, value in found)
    assert list(near_pairs(keys, params, 1)) == []


@pytest.mark.parametrize("language", ["zh", "en"])
def test_a_chain_of_ten_documents_does_not_collapse(language: str) -> None:
    """Neighbours are duplicates; the two ends are not, and connected components would keep one of ten."""
    generator = random.Random(4)
    words = MANY if language == "zh" else [f"{a}{b}{c}" for a in "bdfg" for b in WORDS for c in "klmn"]
    chain = [generator.choices(words, k=400)]
    for step in range(9):
        following = list(chain[-1])
        for place in range(step * 10, 400, 100):
            following[place] = generator.choice(words)
        chain.append(following)
    texts = [" ".join(parts) + "." for parts in chain]
    params = ROW.model_copy(update={"threshold": 0.9})
    assert min(plain_jaccard(a, b, 5) for a, b in pairwise(texts)) >= 0.9
    assert plain_jaccard(texts[0], texts[-1], 5) < 0.6
    result = run(texts, params)
    assert 3 <= len(result.kept) <= 5
    by_id = {f"r{i:03d}": text for i, text in enumerate(texts)}
    assert all(plain_jaccard(by_id[r.id], by_id[r.related_id], 5) >= 0.9 for r in result.removals)
