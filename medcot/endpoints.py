"""Scores of both arms, paired by item: what each endpoint says, over all its benchmarks and for each of them.

An item is worth the mean of its samples. What an arm lacks, or failed at, is wrong for that arm and stays in the denominator. Items that
a training row holds are apart: what is compared, wherever nothing else is said, are the clean ones. Items of one case are resampled
together.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import polars as pl

from medcot.errors import DataError
from medcot.guessing import Guessing, score_interval
from medcot.paired import Comparison, compare_scores
from medcot.statistics import holm
from medcot.tasks import FORGETTING, GENERATED, KEY, KNOWLEDGE, SAFETY
from medcot.verdict_params import LM_EVAL, VerdictParams

ITEM = ["endpoint", "benchmark", "item"]
ARMS = ("base", "tuned")
REMEDY = "run `dvc repro -f evaluate_base evaluate`"
ALL = ""
"""The benchmark of a comparison that takes all of an endpoint's together."""
POOLED_FORGETTING = "forgetting"
"""The endpoint that stands for all of FORGETTING together."""
Role = Literal["primary", "secondary", "forgetting", "safety", "benchmark", "contaminated"]
ROLES = get_args(Role)


@dataclass(frozen=True, slots=True)
class Measured:
    """One comparison of the arms.

    role        primary | secondary (other knowledge) | forgetting | safety | benchmark (one of several) | contaminated (items not clean)
    comparison  tuned − base in shares
    missing     share of the replies or likelihoods that should be there and are not: base, tuned
    truncated   share of replies cut by the limit: base, tuned; and tuned − base as a comparison; None for likelihoods
    looping     share of replies that loop: base, tuned; None where that was not looked at
    p_holm      p adjusted for the other comparisons of its family; None outside a family
    unchecked   items that nobody compared with the training rows
    """

    role: Role
    endpoint: str
    benchmark: str
    comparison: Comparison
    missing: tuple[float, float]
    truncated: tuple[float, float] | None = None
    truncation: Comparison | None = None
    looping: tuple[float, float] | None = None
    p_holm: float | None = None
    unchecked: int = 0


def pair_items(base: pl.DataFrame, tuned: pl.DataFrame, loops: Mapping[str, pl.DataFrame] | None = None) -> pl.DataFrame:
    """Join two tables of scores (tasks.SCORE_SCHEMA) into one line per item, sorted by ITEM.

    loops  arm → its replies that were looked at for loops: KEY and `looping`

    Columns: ITEM, case, contaminated, num_samples; for each arm its name (mean score), missing_ and failed_ (samples), truncated_ and
    looping_ (shares of the samples, null where not looked at); difference = tuned − base.

    Raises DataError when a reply stands twice in an arm, a score is not within 0 and 1, or the arms call an item's case or mark by
    other names.
    """
    arms = {"base": base, "tuned": tuned}
    for arm, scores in arms.items():
        _check(arm, scores)
    samples = pl.concat([base, tuned]).group_by("endpoint").agg(num_samples=pl.col("sample").max() + 1)
    one, other = (_summed(arm, arms[arm], (loops or {}).get(arm)) for arm in ARMS)
    joined = one.join(other, on=ITEM, how="full", coalesce=True).join(samples, on="endpoint").sort(ITEM)
    _check_same_items(joined)
    shares = [
        expression
        for arm in ARMS
        for expression in (
            (pl.col(f"score_{arm}").fill_null(0.0) / pl.col("num_samples")).alias(arm),
            (pl.col("num_samples") - pl.col(f"num_{arm}").fill_null(0)).alias(f"missing_{arm}"),
            pl.col(f"failed_{arm}").fill_null(0),
            (pl.col(f"truncated_{arm}").fill_null(0) / pl.col("num_samples")).alias(f"truncated_{arm}"),
            (pl.col(f"looping_{arm}") / pl.col("num_samples")).alias(f"looping_{arm}"),
        )
    ]
    known = [pl.coalesce(f"{name}_base", f"{name}_tuned").alias(name) for name in ("case", "contaminated")]
    paired = joined.select(*ITEM, *known, "num_samples", *shares)
    return paired.with_columns(difference=pl.col("tuned") - pl.col("base"))


def _check(arm: str, scores: pl.DataFrame) -> None:
    place, remedy = f"scores of the {arm} arm", REMEDY
    if (twice := scores.filter(scores.select(KEY).is_duplicated())).height:
        raise DataError(place, "a reply stands twice", remedy, got=" ".join(map(str, twice.select(KEY).sort(KEY).row(0))))
    if (below := scores.filter(pl.col("sample") < 0)).height:
        raise DataError(place, "samples are numbered from 0", remedy, got=str(below["sample"][0]))
    right = pl.col("score").is_between(0.0, 1.0) & pl.col("score").is_not_nan()
    if (wrong := scores.filter(~right.fill_null(False))).height:
        raise DataError(place, "a score lies between 0 and 1", remedy, got=str(wrong["score"][0]))


def _check_same_items(joined: pl.DataFrame) -> None:
    """An item that one arm calls clean and the other contaminated would be counted or left out by whichever speaks first."""
    both = joined.filter(pl.col("num_base").is_not_null() & pl.col("num_tuned").is_not_null())
    for name in ("case", "contaminated"):
        if (other := both.filter(pl.col(f"{name}_base").ne_missing(pl.col(f"{name}_tuned")))).height:
            place = f"scores: {' '.join(map(str, other.select(ITEM).row(0)))}"
            raise DataError(place, f"the arms differ in `{name}`", REMEDY, got=" and ".join(str(other[f"{name}_{arm}"][0]) for arm in ARMS))


def _summed(arm: str, scores: pl.DataFrame, loops: pl.DataFrame | None) -> pl.DataFrame:
    """One line per item of an arm: sums over its samples."""
    looping = scores.with_columns(looping=pl.lit(None, pl.Boolean)) if loops is None else scores.join(loops, on=KEY, how="left")
    summed = looping.sort(KEY).group_by(ITEM, maintain_order=True)
    columns = summed.agg(
        pl.col("case").first(),
        pl.col("contaminated").first(),
        score=pl.col("score").sum(),
        num=pl.len().cast(pl.Int64),
        failed=(pl.col("status") != "ok").sum().cast(pl.Int64),
        truncated=(pl.col("status") == "truncated").sum().cast(pl.Int64),
        looping=pl.when(pl.col("looping").is_not_null().any()).then(pl.col("looping").sum()),
    )
    return columns.rename({name: f"{name}_{arm}" for name in columns.columns if name not in ITEM})


def measure(items: pl.DataFrame, num_items: Mapping[str, int], params: VerdictParams) -> list[Measured]:
    """Compare the arms on every endpoint, in the order of ROLES, then by endpoint and benchmark.

    items      as pair_items makes them
    num_items  endpoint → how many items each arm was given; what neither arm has counts as missing in both
    """
    clean = _clean(items)
    found: list[Measured] = []
    for endpoint, role in roles(items["endpoint"].unique().sort().to_list(), params.primary):
        rows, everything = clean.filter(endpoint=endpoint), items.filter(endpoint=endpoint)
        absent = max(0, num_items.get(endpoint, 0) - everything.height)
        if rows.height:
            found.append(_measured((role, endpoint, ALL), rows, params, _missing(everything, absent)))
        found += _adjusted(list(_benchmarks(endpoint, rows, params)))
        if role in ("primary", "secondary") and (dirty := everything.filter(pl.col("contaminated"))).height:
            found.append(_measured(("contaminated", endpoint, ALL), dirty, params, _missing(dirty, 0)))
    pooled = clean.filter(pl.col("endpoint").is_in(FORGETTING))
    if pooled.height:
        found.append(_measured(("forgetting", POOLED_FORGETTING, ALL), pooled, params, _missing(pooled, 0)))
    secondary = _adjusted([each for each in found if each.role == "secondary"])
    others = [each for each in found if each.role != "secondary"]
    return sorted([*secondary, *others], key=lambda each: (ROLES.index(each.role), each.endpoint, each.benchmark))


def roles(endpoints: Sequence[str], primary: str) -> Iterator[tuple[str, Role]]:
    """Each endpoint with its role; one that is not known has none."""
    for endpoint in endpoints:
        if endpoint == primary:
            yield endpoint, "primary"
        elif endpoint in KNOWLEDGE or endpoint.startswith(LM_EVAL):
            yield endpoint, "secondary"
        elif endpoint in FORGETTING:
            yield endpoint, "forgetting"
        elif endpoint in SAFETY:
            yield endpoint, "safety"


def _benchmarks(endpoint: str, rows: pl.DataFrame, params: VerdictParams) -> Iterator[Measured]:
    names = rows["benchmark"].unique().sort().to_list()
    for benchmark in names if len(names) > 1 else []:
        part = rows.filter(benchmark=benchmark)
        yield _measured(("benchmark", endpoint, benchmark), part, params, _missing(part, 0))


def _adjusted(family: list[Measured]) -> list[Measured]:
    """The same comparisons with p adjusted for each other (Holm)."""
    adjusted = holm([each.comparison.p for each in family]) if family else []
    return [replace(each, p_holm=p) for each, p in zip(family, adjusted, strict=True)]


def _missing(rows: pl.DataFrame, absent: int) -> tuple[float, float]:
    """Share of replies that each arm lacks, `absent` items that neither has among them."""
    expected = int(rows["num_samples"].sum()) + absent * (int(rows["num_samples"][0]) if rows.height else 1)
    lost = [expected - int((rows["num_samples"] - rows[f"missing_{arm}"]).sum()) for arm in ARMS]
    return lost[0] / expected, lost[1] / expected  # 1 − 990 / 1000 would be more than a limit of .01


def _measured(name: tuple[Role, str, str], rows: pl.DataFrame, params: VerdictParams, missing: tuple[float, float]) -> Measured:
    measured = Measured(*name, compare(rows, params), missing, unchecked=rows["contaminated"].null_count())
    if measured.endpoint not in GENERATED:
        return measured
    truncated = _means(rows, "truncated")
    looping = None if rows["looping_base"].is_null().all() or rows["looping_tuned"].is_null().all() else _means(rows, "looping")
    return replace(measured, truncated=truncated, truncation=compare(rows, params, "truncated_"), looping=looping)


def _means(rows: pl.DataFrame, name: str) -> tuple[float, float]:
    base, tuned = (float(rows[f"{name}_{arm}"].fill_null(0.0).to_numpy().mean()) for arm in ARMS)
    return base, tuned


def compare(rows: pl.DataFrame, params: VerdictParams, prefix: str = "") -> Comparison:
    """Compare two columns of paired items, those of one case together."""
    base, tuned = (rows[f"{prefix}{arm}"].to_numpy() for arm in ARMS)
    return compare_scores(base, tuned, _cases(rows), params.confidence, params.num_resamples, params.seed)


def beside_chance(items: pl.DataFrame, endpoint: str, chance: float, params: VerdictParams) -> Guessing:
    """The interval of each arm's score on the clean items of an endpoint, beside what guessing would score."""
    rows = _clean(items).filter(endpoint=endpoint)
    base, tuned = (
        score_interval(rows[arm].to_numpy(), chance, _cases(rows), params.confidence, params.num_resamples, params.seed) for arm in ARMS
    )
    return Guessing(chance, base, tuned)


def _clean(items: pl.DataFrame) -> pl.DataFrame:
    return items.filter(pl.col("contaminated").is_null() | ~pl.col("contaminated"))


def _cases(rows: pl.DataFrame) -> list[str]:
    """What each item shares with others, by name."""
    return rows.select(pl.concat_str("endpoint", "benchmark", "case", separator="/")).to_series().to_list()


def as_row(measured: Measured) -> dict[str, Any]:
    """One line of comparisons.parquet: shares and counts, null where a figure does not apply."""
    one = measured.comparison
    truncated, looping = measured.truncated or (None, None), measured.looping or (None, None)
    return {
        "role": measured.role,
        "endpoint": measured.endpoint,
        "benchmark": measured.benchmark,
        **{name: getattr(one, name) for name in ("n", "num_clusters", "base", "tuned", "difference")},
        "ci_low": one.low,
        "ci_high": one.high,
        "lower_bound": one.lower,
        "mde": one.mde,
        **{name: getattr(one, name) for name in ("p", "method", "num_better", "num_worse", "discordance", "design_effect", "confidence")},
        "p_holm": measured.p_holm,
        "missing_base": measured.missing[0],
        "missing_tuned": measured.missing[1],
        "truncated_base": truncated[0],
        "truncated_tuned": truncated[1],
        "looping_base": looping[0],
        "looping_tuned": looping[1],
        "unchecked": measured.unchecked,
    }
