"""The verb `medcot why`: what happened to one record, told to a person."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from medcot.errors import DataError

if TYPE_CHECKING:
    from medcot.sentences import Sentence
    from medcot.story import Comparison, Story

LANGUAGES = {"en": (0,), "zh": (1,), "both": (0, 1)}
SHORT = 160  # characters of a text that are shown without --full


def add_why(verbs: Any) -> None:
    """Describe `medcot why`."""
    parser = verbs.add_parser(
        "why",
        help="tell what happened to one record, and why / 讲述一条记录的经过与原因",
        description="Every event of one record as a sentence, with what each step changed and what a duplicate was compared with. Personal "
        "data is masked. Run it in the repository root. / "
        "逐条讲述一条记录的经过：每一步改了什么，重复时与哪条比较。个人信息已遮盖。在仓库根目录运行。",
    )
    parser.add_argument(
        "id",
        nargs="?",
        metavar="ID",
        help="id, its first characters, content hash, or source:row (sample:12) / 编号、编号开头、内容哈希或 来源:行号",
    )
    parser.add_argument("--full", action="store_true", help="whole texts, not only what is near a change / 显示全文，不只是改动附近")
    parser.add_argument("--lang", choices=tuple(LANGUAGES), default="both", help="language of the sentences / 语句的语言")
    parser.add_argument("--json", action="store_true", help="as JSON, a diff as [tag, text] pairs / 输出 JSON，差异为 [标记, 文本]")
    parser.add_argument(
        "--rule", metavar="RULE", help="instead of an ID: records that met this rule, drawn at random / 不给编号：随机抽取遇到此规则的记录"
    )
    parser.add_argument("-n", type=int, default=5, metavar="N", help="how many with --rule / 与 --rule 合用：抽取几条")
    parser.add_argument("--seed", type=int, default=0, help="of the draw / 抽取的种子")
    parser.set_defaults(run=why)


def why(args: argparse.Namespace) -> None:
    """Tell one record's story, or list records that met a rule."""
    if (args.id is None) == (args.rule is None):
        raise DataError("medcot why", "one of ID and --rule is needed", "`medcot why ID`, or `medcot why --rule near_duplicate`")
    if args.rule is not None:
        list_examples(args)
        return
    from medcot.lookup import resolve
    from medcot.story import tell

    story = tell(resolve(args.id))
    if args.json:
        print(json.dumps(as_json(story), ensure_ascii=False, indent=2))
    else:
        print("\n".join(lines(story, LANGUAGES[args.lang], args.full)))


def list_examples(args: argparse.Namespace) -> None:
    """Print one line for each record drawn: its id first, for the next `medcot why`."""
    if args.n < 1:
        raise DataError("medcot why -n", "at least one record must be asked for", "give 1 or more", got=args.n)
    from medcot.lookup import examples
    from medcot.sentences import sentence, show

    events = [show(event) for event in examples(args.rule, args.n, args.seed)]
    if args.json:
        print(json.dumps([{**event, "sentence": sentence(event)._asdict()} for event in events], ensure_ascii=False, indent=2))
        return
    for event in events:
        said = " / ".join(sentence(event)[language] for language in LANGUAGES[args.lang])
        print(f"{event['id']}  {event['source']}:{event['source_row']}  {event['stage']}: {said}")


def as_json(story: Story) -> dict[str, Any]:
    """The story as JSON objects."""

    def shown(comparison: Comparison | None) -> dict[str, Any] | None:
        return None if comparison is None else {"title": comparison.title._asdict(), "fields": comparison.fields}

    entries = [
        {
            "event": entry.event,
            "sentence": entry.sentence._asdict(),
            "comparison": shown(entry.comparison),
            "notes": [note._asdict() for note in entry.notes],
        }
        for entry in story.entries
    ]
    place = {"id": story.id, "source": story.source, "source_row": story.source_row, "content_hash": story.content_hash}
    return {**place, "end": story.end["action"], "rule": story.end["rule"], "events": entries, "texts": story.texts}


def lines(story: Story, languages: tuple[int, ...], full: bool) -> Iterator[str]:
    """The story for a terminal."""
    from medcot.textdiff import safe

    end = story.end
    place = story.source if story.source_row is None else f"{story.source}:{story.source_row}"
    yield f"{story.id}  {place}  {end['action']}" + (f" ({end['rule']})" if end["rule"] != end["action"] else "")
    if story.content_hash:  # a synthetic row has none, and no decision either
        yield f"{' / '.join(('content hash', '内容哈希')[language] for language in languages)}: {story.content_hash}"
    for name, text in story.texts.items():
        if full:
            yield from (f"\n{name}:", _indent(safe(text), 2))
        elif name in ("question", "raw"):
            yield f"{name}: {safe(text[:SHORT]).replace(chr(10), ' ')}{' …' if len(text) > SHORT else ''}"
    yield ""
    for entry in story.entries:
        yield from _said(f"{entry.event['seq']:>2}  {entry.event['stage']:<14} ", entry.sentence, languages)
        if entry.comparison:
            yield from _compared(entry.comparison, languages, full)
        for note in entry.notes:
            yield from _said(" " * 19, note, languages)


def _said(label: str, sentence: Sentence, languages: tuple[int, ...]) -> Iterator[str]:
    for language in languages:
        yield f"{label}{sentence[language]}"
        label = " " * len(label)


def _compared(comparison: Comparison, languages: tuple[int, ...], full: bool) -> Iterator[str]:
    from medcot.textdiff import render_terminal, trim, wants_colour

    yield f"{' ' * 19}{' / '.join(comparison.title[language] for language in languages)}:"
    for name, segments in comparison.fields.items():
        changed = any(segment.tag != "equal" for segment in segments)
        shown = render_terminal(segments if full else trim(segments), wants_colour(sys.stdout)) if changed else "="
        yield _indent(f"{name}: {shown}", 21)


def _indent(text: str, width: int) -> str:
    return "\n".join((" " * width + line).rstrip() for line in text.split("\n"))
