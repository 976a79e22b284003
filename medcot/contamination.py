"""Training rows that contain a benchmark item.

A row and an item meet in one of four ways, named by the first that holds:
exact    the row's question, without the choices that it may list, has the item's matching key
ngram    the row, its reasoning and answer included, contains at least `min_overlap` of the item's runs of `ngram_size` tokens,
         or a shorter question of MIN_WHOLE tokens or more as a whole
near     question and item have a Jaccard at or above `near.threshold`
choices  an item too short for a run stands in the question as a whole, with all its choices but one

Another age or dose makes another training row, but not another exam case: whoever has learnt the one knows the other. So what the
guard calls a conflict in dedup is a hit here, unless the texts are short: there the one word that differs is the question.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, product
from typing import Literal

from pydantic import Field

from medcot.benchmarks import Item
from medcot.guard import EVERY_WORD, compare
from medcot.key_index import KeyParams, near_pairs
from medcot.matching import matching_key, shingles, stem, tokens
from medcot.overlap import shared_runs
from medcot.params import Params
from medcot.records import TEXT_FIELDS, Record

How = Literal["exact", "ngram", "near", "choices"]
ORDER: tuple[How, ...] = ("exact", "ngram", "near", "choices")
MIN_CHOICES = 3  # choices that a short item needs to be told by them
OPENING = 4  # tokens by which a short item is looked up
MIN_WHOLE = 8  # tokens of a question that no other text contains by chance
_ASKS = re.compile(
    "[是为有属哪何不宜应选]|什么|包括|(?<![a-z])(?:what|which|who|how|when|where|why|is|are|does?)(?![a-z])"
)  # no disease's name does
_TURNED = ("不", "非", "无", "未")  # before an item they make another question


class NearParams(Params):
    """Near questions: candidates by MinHash, verified by exact Jaccard."""

    shingle_size: int = Field(ge=1, le=20)
    """Tokens a shingle, 1 to 20; small, since questions are short."""
    threshold: float = Field(gt=0, le=1)
    """Exact Jaccard from which question and item are near, 0 to 1; raising it finds fewer."""
    num_perm: int = Field(ge=16, le=4096)
    """Permutations of the signature; a low threshold needs more of them."""


NEAR = NearParams(shingle_size=3, threshold=0.5, num_perm=512)


class ContaminationParams(Params):
    """What counts as containing a benchmark item."""

    seed: int = Field(default=1, ge=0, lt=2**32)
    """Seed of the MinHash permutations; another seed may find other candidates, never other verdicts."""
    ngram_size: int = Field(default=13, ge=OPENING + 1, le=50)
    """Tokens a run, 5 to 50 (a Han character is one); a smaller one finds more, and more chance phrases."""
    min_overlap: float = Field(default=0.5, gt=0, le=1)
    """Share of an item's runs that a row must contain, 0 to 1; raising it finds fewer."""
    case_tokens: int = Field(default=25, ge=0, le=100_000)
    """Tokens from which a text is a case, which stays the same case with another age or dose; raising it finds fewer."""
    near: NearParams = NEAR
    """Near questions."""


@dataclass(frozen=True, slots=True)
class Hit:
    """A row that contains an item.

    similarity  1 for exact and choices, the overlap for ngram, the Jaccard for near
    detail      for near: the kinds of facts in which the two differ
    """

    id: str
    item: Item
    how: How
    similarity: float
    detail: str = ""

    @property
    def order(self) -> tuple[int, float, str]:
        """Sorts a row's hits, the surest first."""
        return ORDER.index(self.how), -self.similarity, self.item.key


def find_hits(records: Sequence[Record], items: Sequence[Item], params: ContaminationParams) -> list[Hit]:
    """Find every pair of a record and an item that it contains, each once, sorted by record and item."""
    if not records or not items:
        return []
    finder = _Finder(records, items, params)
    found: dict[tuple[int, int], tuple[How, float, str]] = {}
    for row, item, how, similarity, detail in chain(finder.exact(), finder.ngram(), finder.whole(), finder.near(), finder.choices()):
        found.setdefault((row, item), (how, similarity, detail))
    hits = [Hit(records[row].id, items[item], *found[row, item]) for row, item in found]
    return sorted(hits, key=lambda hit: (hit.id, hit.item.key))


Found = tuple[int, int, How, float, str]


class _Finder:
    """The matching keys of rows and items; each method yields (row, item, how, similarity, detail), the two by their numbers."""

    def __init__(self, records: Sequence[Record], items: Sequence[Item], params: ContaminationParams) -> None:
        self.records, self.items, self.params = records, items, params
        self.items_of: dict[str, list[int]] = {}
        for number, item in enumerate(items):
            self.items_of.setdefault(stem(matching_key(item.text)), []).append(number)
        self.item_keys = sorted(self.items_of)
        self.questions = [matching_key(record.question) for record in records]
        self.stems = [stem(key) for key in self.questions]

    def exact(self) -> Iterator[Found]:
        """Equal stems; where both list choices under a short stem such as `which is true?`, the choices must be the same too."""
        for row, key in enumerate(self.stems):
            is_short = num_tokens(key) < self.params.ngram_size and key != self.questions[row]
            for item in self.items_of.get(key, ()):
                if not is_short or not self.items[item].choices or _lists(self.questions[row], self.items[item].choices):
                    yield row, item, "exact", 1.0, ""

    def ngram(self) -> Iterator[Found]:
        size = self.params.ngram_size
        keys = [key for key in self.item_keys if num_tokens(key) >= size]
        lengths = [len(shingles(key, size)) for key in keys]
        rows = self._sharing_rows([self.items[self.items_of[key][0]].text for key in keys])
        for place, number, shared in shared_runs(map(self._whole_key, rows), keys, size):
            overlap = shared / lengths[number]
            if overlap >= self.params.min_overlap:
                yield from ((rows[place], item, "ngram", overlap, "") for item in self.items_of[keys[number]])

    def whole(self) -> Iterator[Found]:
        """Short questions that stand in any text of a row, word for word."""
        short = [key for key in self.item_keys if MIN_WHOLE <= num_tokens(key) < self.params.ngram_size and _ASKS.search(key)]
        texts = [self.items[self.items_of[key][0]].text for key in short]
        rows = ("\n".join(getattr(record, name) for name in TEXT_FIELDS) for record in self.records)
        keys: dict[int, str] = {}
        for row, number, _ in shared_runs(rows, texts, MIN_WHOLE):
            if row not in keys:
                keys[row] = self._whole_key(row)
            if _stands_in(short[number], keys[row]):
                yield from ((row, item, "ngram", 1.0, "") for item in self.items_of[short[number]])

    def _whole_key(self, row: int) -> str:
        return "\n".join(stem(matching_key(getattr(self.records[row], name))) for name in TEXT_FIELDS)

    def _sharing_rows(self, texts: Sequence[str]) -> list[int]:
        """The rows that share a somewhat shorter run with any of the texts, both as they stand: a key costs far more than a hash."""
        whole = ("\n".join(getattr(record, name) for name in TEXT_FIELDS) for record in self.records)
        return sorted({row for row, _, _ in shared_runs(whole, texts, self.params.ngram_size * 3 // 4)})

    def near(self) -> Iterator[Found]:
        near = self.params.near
        params = KeyParams(**near.model_dump(), min_alignment=0.0, strict_below=EVERY_WORD)
        rows_of: dict[str, list[int]] = {}
        for row, key in enumerate(self.stems):
            rows_of.setdefault(key, []).append(row)
        keys = sorted(self.items_of.keys() | rows_of.keys())
        for a, b, similarity in near_pairs(keys, params, self.params.seed):
            for key, question in ((keys[a], keys[b]), (keys[b], keys[a])):
                if key not in self.items_of or question not in rows_of:
                    continue
                kinds = compare(key, question, EVERY_WORD).kinds
                if not kinds or min(num_tokens(key), num_tokens(question)) >= self.params.case_tokens:
                    pairs = product(rows_of[question], self.items_of[key])
                    yield from ((row, item, "near", similarity, ", ".join(kinds)) for row, item in pairs)

    def choices(self) -> Iterator[Found]:
        """Short items, by their first tokens and then as a whole; without choices they are told by `exact` and `near` alone."""
        short = [
            (key, item)
            for key in self.item_keys
            if OPENING <= num_tokens(key) < self.params.ngram_size
            for item in self.items_of[key]
            if len(self.items[item].choices) >= MIN_CHOICES
        ]
        openings = [" ".join(tokens(key)[:OPENING]) for key, _ in short]
        for row, number, _ in shared_runs(self.questions, openings, OPENING):
            key, item = short[number]
            if key in self.questions[row] and _lists(self.questions[row], self.items[item].choices):
                yield row, item, "choices", 1.0, ""


def num_tokens(key: str) -> int:
    """Tokens of a matching key: Han characters, words and numbers."""
    return len(tokens(key))


def _stands_in(key: str, text: str) -> bool:
    """Whether a key stands in a longer one as whole words, and not turned into its opposite by the word before."""
    places = re.finditer(rf"(?<![a-z0-9](?=[a-z0-9])){re.escape(key)}(?!(?<=[a-z0-9])[a-z0-9])", text)
    return any(not text[: place.start()].endswith(_TURNED) for place in places)


def _lists(question: str, choices: Sequence[str]) -> bool:
    return sum(matching_key(choice) in question for choice in choices) >= len(choices) - 1
