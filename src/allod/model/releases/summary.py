"""The public summary of training content that Article 53(1)(d) of Regulation (EU) 2024/1689 asks for.

It follows the template that the AI Office published on 24 July 2025: general information, list of data sources, data
processing aspects. Everything in it comes from manifests. What only a person can say is None in the JSON
and stands visibly blank in the text: it is never guessed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from allod.core.canonical import JsonValue, canonical_json
from allod.core.times import day_of
from allod.model.releases.facts import ReleaseFacts, SourceUse, where_lines, where_of
from allod.model.releases.records import SourceRecord

SUMMARY_FILE, SUMMARY_TEXT_FILE = "summary.json", "summary.md"
BLANK = "[ to be written by a person ]"
CANARIES = "canaries"

_NOTHING = SourceUse()
_COLUMNS = (
    "name", "origin", "package", "licence", "jurisdiction", "date", "num_documents", "num_learnt", "num_held_out",
    "num_tokens",
)  # fmt: skip
_SIZES = ((10**9, "less than 1 billion tokens"), (10**13, "1 billion to 10 trillion tokens"))


def summary(facts: ReleaseFacts) -> bytes:
    """The summary in canonical JSON; `summary_text` shows it to people."""
    own = [
        source for source in facts.sources if not source.package
    ]  # files of the provider's: what they are, nothing here says
    from_others: JsonValue = None if own else []
    value: dict[str, JsonValue] = {
        "template": "Template of the AI Office for the public summary of training content, 24 July 2025",
        "general": {
            "provider": {"name": facts.publisher, "country": facts.country, "contact": None, "representative": None},
            "model": {
                "name": facts.name,
                "version": facts.digest,
                "depends_on": dict(facts.base) if facts.base else None,
                "placed_on_union_market": None,
            },
            "modalities": ["text"],
            "size": _size(facts.num_tokens),
            "num_tokens": facts.num_tokens,
            "content": None,
            "latest_acquisition": day_of(max(stage.end_ms for stage in facts.stages if stage.stage == "source")),
            "languages": _languages(facts),
            "trained_until": day_of(facts.ended_ms),
            "where": where_of(facts.stages),
        },
        "sources": {
            "public_datasets": [_source(source, facts) for source in facts.sources if source.package],
            "private_datasets": from_others,
            "crawled": from_others,
            "user_data": from_others,
            "synthetic": _synthetic(facts),
            "other": [_source(item, facts) for item in own],
        },
        "processing": {
            "rights_reservations": None,
            "licences": sorted({source.licence for source in facts.sources}),
            "dropped": dict(facts.dropped),
            "illegal_content": None,
            "other": None,
        },
    }
    return canonical_json(value)


def summary_text(value: Mapping[str, Any]) -> str:
    """The summary as Markdown."""
    lines = [
        f"# Public summary of training content: {_plain(value['general']['model']['name'])}",
        "",
        f"{value['template']}. Rendered from the manifests of the training run; {BLANK} marks what they cannot say.",
        *_general_lines(value["general"]),
        *_sources_lines(value["sources"]),
        *_lines_of_processing(value["processing"]),
    ]
    return "\n".join(lines) + "\n"


def _general_lines(general: Mapping[str, Any]) -> list[str]:
    provider, model = general["provider"], general["model"]
    base = model["depends_on"]
    return [
        "",
        "## 1. General information",
        "",
        f"- Provider: {_plain(provider['name'])} ({_plain(provider['country'])})",
        f"- Contact: {_as_text(provider['contact'])}",
        f"- Authorised representative: {_as_text(provider['representative'])}",
        f"- Model: {_plain(model['name'])}, {model['version']}",
        f"- Depends on: {_model_named(base) if base else 'no other model'}",
        f"- Placed on the Union market: {_as_text(model['placed_on_union_market'])}",
        f"- Modalities: {', '.join(general['modalities'])}",
        f"- Size of the training data: {general['size']} ({general['num_tokens']} tokens)",
        f"- Types of content: {_as_text(general['content'])}",
        f"- Latest acquisition of data: {_as_text(general['latest_acquisition'])}",
        f"- Languages kept by cleaning: {_as_text(general['languages'])}",
        f"- Trained until: {general['trained_until']}",
        *(f"- {_plain(line)}" for line in where_lines(general["where"])),
    ]


def _sources_lines(sources: Mapping[str, Any]) -> list[str]:
    lines = ["", "## 2. Data sources"]
    for title, said in (
        ("2.1 Publicly available datasets", _table(sources["public_datasets"])),
        ("2.2 Private datasets obtained from third parties", [_as_text(sources["private_datasets"])]),
        ("2.3 Data crawled and scraped from online sources", [_as_text(sources["crawled"])]),
        ("2.4 User data", [_as_text(sources["user_data"])]),
        ("2.5 Synthetic data", [f"- {_plain(source)}" for source in sources["synthetic"]] or ["none"]),
        ("2.6 Other sources", _table(sources["other"])),
    ):
        lines += ["", f"### {title}", "", *said]
    return lines


def _lines_of_processing(processing: Mapping[str, Any]) -> list[str]:
    dropped = ", ".join(f"{number} by {_plain(rule)}" for rule, number in sorted(processing["dropped"].items()))
    return [
        "",
        "## 3. Data processing",
        "",
        f"- Reservations of rights (text and data mining) respected by: {_as_text(processing['rights_reservations'])}",
        f"- Licences: {', '.join(map(_plain, processing['licences']))}",
        f"- Documents dropped: {dropped or 'none'}",
        f"- Illegal content removed by: {_as_text(processing['illegal_content'])}",
        f"- Other: {_as_text(processing['other'])}",
    ]


def _source(source: SourceRecord, facts: ReleaseFacts) -> dict[str, JsonValue]:
    use = facts.used.get(source.name, _NOTHING)
    return {
        "name": source.name,
        "origin": source.origin,
        "package": source.package,
        "licence": source.licence,
        "jurisdiction": source.jurisdiction,
        "date": source.date,
        "num_documents": source.num_documents,
        "num_learnt": use.num_documents,
        "num_held_out": use.num_held_out,
        "num_tokens": use.num_tokens,
    }


def _synthetic(facts: ReleaseFacts) -> list[str]:
    made = []
    if canaries := facts.used.get(CANARIES):
        made.append(f"{canaries.num_documents} documents of random sentences, planted to measure verbatim recall")
    if any(stage.stage == "tune" for stage in facts.stages):
        made.append("instruction examples, made by rule from the sources listed here; no model wrote them")
    return made


def _languages(facts: ReleaseFacts) -> list[str] | None:
    kept = [stage.predicate["parameters"].get("languages") for stage in facts.stages if stage.stage == "clean"]
    return [str(item) for item in kept[0]] if kept and isinstance(kept[0], list) else None


def _size(num_tokens: int) -> str:
    return next((words for below, words in _SIZES if num_tokens < below), "more than 10 trillion tokens")


def _table(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    if not rows:
        return ["none"]
    return [
        "| " + " | ".join(name.removeprefix("num_").replace("_", " ") for name in _COLUMNS) + " |",
        "|---" * len(_COLUMNS) + "|",
        *("| " + " | ".join(_plain(row[name]) for name in _COLUMNS) + " |" for row in rows),
    ]


def _model_named(base: Mapping[str, Any]) -> str:
    return f"{_plain(base['origin'])}, {base['sha256']}, {_plain(base['licence'])}; its own summary: {BLANK}"


def _as_text(value: Any) -> str:
    if value is None:
        return BLANK
    return (", ".join(map(_plain, value)) or "none") if isinstance(value, list) else _plain(value)


def _plain(value: Any) -> str:
    """A value as text that cannot break out of a line or a table's cell, and is no link, image, code or HTML."""
    text = " ".join(str(value).split())
    for sign in ("\\", "|", "[", "`"):
        text = text.replace(sign, f"\\{sign}")
    return text.replace("<", "&lt;")
