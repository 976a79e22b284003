"""The tables that benchmarks/train.py prints, out of the lines that its children wrote."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from benchmarks.train_contenders import CONTENDERS, TARGETS, Target
from benchmarks.train_setup import SETTINGS

PEAK = 790e12  # FLOP/s of a large bfloat16 product on random data, as measured on an H200: what MFU is counted against there
Line = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Speed:
    """Real tokens per second of one contender in one setting: the median of its runs, and their range."""

    runs: tuple[float, ...]
    lines: tuple[Line, ...]

    @property
    def median(self) -> float:
        return median(self.runs)

    def mfu(self, peak: float) -> float:
        """Model FLOPs utilisation of QLoRA: 4 FLOPs a weight and token, as frozen weights need no gradient of their own."""
        return 4 * float(self.lines[0]["parameters"]) * self.median / peak


def tokens_per_second(line: Line) -> float:
    """That of the median step: now and then a peer's step takes two or three times as long, which weighs too much among a dozen."""
    return float(median(tokens / seconds for tokens, seconds in zip(line["tokens"], line["seconds"], strict=True)))


def mean_tokens_per_second(line: Line) -> float:
    """Over all timed steps, pauses included."""
    return float(sum(line["tokens"]) / sum(line["seconds"]))


def speeds(lines: Iterable[Line]) -> dict[tuple[str, str], Speed]:
    """By setting and contender."""
    runs: dict[tuple[str, str], list[Line]] = {}
    for line in lines:
        if "seconds" in line:
            runs.setdefault((line["setting"], line["contender"]), []).append(line)
    return {key: Speed(tuple(map(tokens_per_second, found)), tuple(found)) for key, found in runs.items()}


def peak_flops(device: Line | None) -> float:
    """What MFU is counted against: 790 TFLOP/s on the chip that was measured on, else the card's own rate."""
    if device is None or any(name in device["device"] for name in ("H200", "H100")):
        return PEAK
    return float(device["matmul_flops"])


def markdown(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    return "\n".join([*lines, *("| " + " | ".join(map(str, row)) + " |" for row in rows)])


def heading(setting: str, cap_gib: float | None) -> str:
    """Which model, on which memory."""
    one = SETTINGS[setting]
    return f"{one.title}, {one.card} (memory capped to {cap_gib} GiB)" if cap_gib else f"{one.title}, the whole memory of the card"


def micro_batch(line: Line) -> str:
    """Rows or packs of a micro-batch; for ours what it said of its passes."""
    passes = [words for words in line.get("said", []) if words.startswith("passes of")]
    return str(passes[-1].removeprefix("passes of ") if passes else line["batch"])


def speed_table(found: dict[tuple[str, str], Speed], setting: str, peak: float) -> str:
    """One setting's contenders, the fastest first."""
    rows = []
    ordered = sorted((item for item in found.items() if item[0][0] == setting), key=lambda item: -item[1].median)
    for (_, name), speed in ordered:
        last = speed.lines[-1]
        spread = f"{min(speed.runs):,.0f} to {max(speed.runs):,.0f} ({len(speed.runs)})" if len(speed.runs) > 1 else ""
        peaks = (max(line[key] for line in speed.lines) for key in ("allocated_gib", "reserved_gib"))
        mean = median(map(mean_tokens_per_second, speed.lines))
        cells = [
            f"{speed.median:,.0f}",
            spread,
            f"{mean:,.0f}",
            *(f"{gib:.1f}" for gib in peaks),
            f"{last['filled']:.2f}",
            f"{speed.mfu(peak):.2f}",
        ]
        rows.append([CONTENDERS[name].title, micro_batch(last), *cells])
    header = ["path", "micro-batch", "tokens/s", "range (runs)", "all steps", "GiB in use", "GiB reserved", "real tokens", "MFU"]
    return f"{heading(setting, ordered[0][1].lines[0]['cap_gib'])}\n\n{markdown(header, rows)}"


def verdict(target: Target, found: dict[tuple[str, str], Speed], peak: float) -> tuple[str, str]:
    """What was reached and whether that is enough, or why nothing can be said."""
    ours = found.get((target.setting, target.contender))
    theirs = found.get((target.setting, target.against)) if target.against else ours
    if ours is None or theirs is None:
        return "", "not measured"
    reached = ours.median / theirs.median if target.against else ours.mfu(peak)
    return f"{reached:.3f}", "met" if reached >= target.factor else "not met"


def target_table(found: dict[tuple[str, str], Speed], settings: Sequence[str], peak: float) -> str:
    """Every target of these settings."""
    rows = []
    for target in TARGETS:
        if target.setting not in settings:
            continue
        wanted = f"≥ {target.factor} × {CONTENDERS[target.against].title}" if target.against else f"MFU ≥ {target.factor}"
        rows.append([target.setting, CONTENDERS[target.contender].title, wanted, *verdict(target, found, peak)])
    return markdown(["shape", "path", "target", "reached", "verdict"], rows)


def share_table(lines: Iterable[Line]) -> str:
    """Where the time goes, for every profiled path."""
    profiled = [line for line in lines if "shares" in line]
    header = ["share of the device's time", *(f"{line['setting']}, {line['contender']}" for line in profiled)]
    return markdown(header, [[name, *(f"{line['shares'][name]:.1%}" for line in profiled)] for name in profiled[0]["shares"]])


def memory_table(lines: Iterable[Line]) -> str:
    """Peaks of the recipes at their own settings."""
    rows = []
    for line in lines:
        speed = f"{tokens_per_second(line):,.0f}"
        cells = [f"{line['cap_gib']:.1f}", f"{line['allocated_gib']:.1f}", f"{line['reserved_gib']:.1f}", speed]
        path = next((words.split(" path: ")[0] for words in line.get("said", []) if " path: " in words), "")
        rows.append([line["contender"], line["setting"], line["batch"], path, micro_batch(line), *cells])
    return markdown(["recipe", "shape", "rows a step", "path", "passes", "cap, GiB", "GiB in use", "GiB reserved", "tokens/s"], rows)


def versions_line(lines: Iterable[Line]) -> str:
    """Every version that took part; two of one library where contenders differ."""
    found: dict[str, dict[str, None]] = {}
    for line in lines:
        for name, version in line.get("versions", {}).items():
            found.setdefault(name, {})[version] = None
    return ", ".join(f"{name} {' and '.join(versions)}" for name, versions in found.items())
