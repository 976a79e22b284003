"""The machine code gives the bytes of its readable twins in numpy, whatever the text, the threads and the installation."""

from __future__ import annotations

import os
import subprocess
import sys
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from datasketch import MinHash
from hypothesis import example, given, settings
from hypothesis import strategies as st

from medcot import compiled, similarity
from medcot.errors import MachineError
from medcot.kernels import decode
from medcot.matching import fingerprint, jaccards, matching_key, shingles
from medcot.minhash import band_keys, bands_and_rows, hash32, signatures
from medcot.similarity import Texts, agreeing, least_agreement, near, signed, similarities, sketch, workers

ROOT = Path(__file__).resolve().parent.parent
MEDICAL = st.text(alphabet="患者左右五十年次热 5.0/9⁹₂①½%‰-−+±abCÉéß，。<>≥≤℃°㎎𠀀😀한か\u0301ﬁⅡ\u200b\ud800^,:×~", max_size=60)
ANY = st.text(st.characters(exclude_categories=()), max_size=60)
CASES = [
    "患者男，44岁，体温38.5℃，WBC 12.5×10⁹/L，HBsAg（+）。", "A 44-year-old man: T 38.5 °C, WBC 12.5 x 10^9/L.",
    "𠀀𠀁𠀂 astral 😀", "", " ", "。", "？！", "头痛",
    "1.5.", ".5", "1..5", "1.5.a", "12:", "ＷＢＣ　１２．５", "\ud83d\ude00",
]  # fmt: skip


def texts() -> list[str]:
    return [*CASES, "患者" * 500, "a" * 3000, " ".join(f"word{i}" for i in range(400)), matching_key(CASES[0])]


@settings(max_examples=150, deadline=None)
@given(st.lists(MEDICAL | ANY, max_size=6), st.integers(1, 6))
@example(CASES, 5)
@example(CASES, 1)
def test_the_kernel_shingles_and_signs_as_the_reference_does(found: list[str], size: int) -> None:
    sets = [shingles(text, size) for text in found]
    result = signed(Texts.of(found), size, 0.8, 32, 7)
    expected = signatures(sets, 32, 7)
    assert result.signatures.tobytes() == expected.tobytes()
    assert result.keys.tobytes() == band_keys(expected, *bands_and_rows(0.8, 32)).tobytes()
    assert result.prints.tolist() == [fingerprint(text, size) for text in found]
    pairs = np.array([*combinations(range(len(found)), 2)], dtype=np.int64).reshape(-1, 2)
    assert similarities(Texts.of(found), pairs, size).tobytes() == jaccards(sets, pairs).tobytes()


@pytest.mark.parametrize(("num_perm", "seed"), [(128, 1), (129, 5), (30, 7)])
def test_the_kernel_s_signatures_are_bit_identical_to_datasketch(num_perm: int, seed: int) -> None:
    for text, ours in zip(texts(), signed(Texts.of(texts()), 5, 0.8, num_perm, seed).signatures, strict=True):
        oracle = MinHash(num_perm=num_perm, seed=seed, hashfunc=int, scheme="affine32")
        oracle.update_batch(hash32(shingles(text, 5)).tolist())
        assert ours.tolist() == oracle.hashvalues.tolist()


def test_utf8_is_decoded_as_python_does() -> None:
    points = [0, 0x7F, 0x80, 0x7FF, 0x800, 0xD800, 0xFFFF, 0x10000, 0x10FFFF]
    data = np.frombuffer("".join(map(chr, points)).encode("utf-8", "surrogatepass"), dtype=np.uint8).astype(np.int64)
    found, at = [], 0
    while at < len(data):
        point, at = decode(data, at)
        found.append(int(point))
    assert found == points


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("白细胞10⁹/L", "白细胞109/L", False),
        ("口服3.5mg", "口服35mg", False),
        ("HBsAg(+)", "HBsAg", False),
        ("症状5①发热", "症状51发热", False),
        ("ＷＢＣ　１２．５", "wbc 12.5", True),
        ("PaCO₂，烦燥。", "paco2 烦躁", True),
        ("Chest PAIN!", "chest pain", True),
        ("ｶﾙﾃ：⼼绞痛", "カルテ 心绞痛", True),
    ],
)
def test_a_long_text_s_shingles_forget_typing_and_remember_numbers(one: str, other: str, same: bool) -> None:
    assert (fingerprint(one, 3) == fingerprint(other, 3)) is same


def corpus() -> list[str]:
    generator = np.random.default_rng(3)
    han = [chr(0x5000 + i) for i in range(2000)]
    base = ["".join(generator.choice(han, 300)) for _ in range(40)]
    close = [text[:100] + "".join(generator.choice(han, 1 + 4 * i)) + text[100 + 4 * i :] for i, text in enumerate(base[:20])]
    return [*base, *close, *base[:5], *(f"{text}！" for text in base[:3])]


def found_pairs(texts: list[str], threshold: float = 0.8, floor: float | None = None) -> list[tuple[int, int, float]]:
    found = near(Texts.of(texts), 5, threshold, 128, 1, threshold if floor is None else floor)
    return sorted((a, b, value) for pairs, values in found for (a, b), value in zip(pairs.tolist(), values.tolist(), strict=True))


def test_every_pair_at_the_threshold_is_found_once_copies_among_them() -> None:
    sets = [shingles(text, 5) for text in corpus()]
    pairs = np.array([*combinations(range(len(sets)), 2)])
    values = jaccards(sets, pairs)
    expected = [(int(a), int(b), float(value)) for (a, b), value in zip(pairs, values, strict=True) if value >= 0.8]
    assert found_pairs(corpus()) == expected
    assert sum(value == 1 for *_, value in expected) >= 8
    assert len(found_pairs(corpus(), floor=0.5)) > len(expected)


@pytest.mark.parametrize(("one", "other"), [("心绞痛胸", "心绞痛胸闷"), ("chest pain at rest", "chest pain at rest now")])
def test_a_pair_exactly_at_the_threshold_is_near(one: str, other: str) -> None:
    found = near(Texts.of([one, other]), 1, 0.8, 128, 1, 0.8)
    assert [(pairs.tolist(), values.tolist()) for pairs, values in found if len(pairs)] == [([[0, 1]], [0.8])]


@pytest.mark.parametrize("count", ["1", "2", "5"])
def test_the_number_of_threads_changes_nothing(count: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEDCOT_WORKERS", "3")
    expected = found_pairs(corpus())
    monkeypatch.setenv("MEDCOT_WORKERS", count)
    assert found_pairs(corpus()) == expected


@pytest.mark.parametrize("given", ["0", "two", "-1"])
def test_a_wrong_number_of_workers_is_one_line(given: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEDCOT_WORKERS", given)
    with pytest.raises(MachineError, match=f"MEDCOT_WORKERS: not a number of workers, got {given}; set it to 1 to 1024"):
        workers()


def test_comparing_signatures_first_loses_next_to_no_pair_at_the_threshold() -> None:
    from scipy.stats import binom

    for threshold, num_perm in ((0.8, 128), (0.5, 512), (0.9, 4096)):
        least = least_agreement(threshold, num_perm)
        assert binom.cdf(least - 1, num_perm, threshold) <= 1e-6 < binom.cdf(least, num_perm, threshold)
    assert least_agreement(1, 128) == 128
    signature = np.array([[1, 2, 3, 4], [1, 2, 3, 5], [9, 9, 3, 4], [1 + 256, 2, 3, 4]], dtype=np.uint32)
    pairs = np.array([[0, 1], [0, 2], [0, 3]])
    assert agreeing(sketch(signature), pairs, 1).tolist() == [[0, 3]]  # a sketch has one byte a place: it lets more through, not less


def compute(environment: dict[str, str]) -> str:
    """Sign a text in a fresh process without numba's module and tell whether numba was imported, the result and what was written."""
    code = (
        "import sys; from medcot.similarity import *;"
        "print(int(signed(Texts.of(['头痛 headache']), 2, .8, 16, 1).prints[0]), 'numba' in sys.modules)"
    )
    env = {**os.environ, **environment, "PYTHONPATH": str(ROOT)}
    return subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True).stdout.strip()


def test_compiled_once_the_code_is_loaded_without_numba() -> None:
    signed(Texts.of(["头痛"]), 2, 0.8, 16, 1)
    assert compute({}) == f"{fingerprint('头痛 headache', 2)} False"


def test_it_compiles_where_numba_is_told_not_to(tmp_path: Path) -> None:
    found = compute({"NUMBA_DISABLE_JIT": "1", "XDG_CACHE_HOME": str(tmp_path)})
    assert found.split()[0] == str(fingerprint("头痛 headache", 2))


def test_a_damaged_or_unwritable_cache_is_no_matter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = compiled._object_code()
    monkeypatch.setattr(compiled, "_compile", lambda: code)
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setattr(compiled, "_directories", lambda: [tmp_path / "file" / "no directory", tmp_path / "cache"])
    assert compiled._object_code() == code
    (kept,) = (tmp_path / "cache").iterdir()
    kept.write_bytes(kept.read_bytes()[:-1])
    monkeypatch.setattr(compiled, "_compile", lambda: b"compiled again")
    assert compiled._object_code() == b"compiled again"
    assert compiled._object_code() == b"compiled again"
    assert similarity.signed(Texts.of(["a"]), 1, 0.8, 16, 1).signatures.shape == (1, 16)
