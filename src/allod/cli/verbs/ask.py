"""`allod ask`: one answer on stdout, and its receipt if wanted. Text on stdin is the passage to answer from."""

from __future__ import annotations

import argparse
import os
import sys
from contextlib import closing
from pathlib import Path

from allod.app.home import Home, load_settings, models_said
from allod.cli.client import Client, ClientAnswer, find_or_start_gateway
from allod.cli.json_text import json_text
from allod.core.errors import Invalid

MAX_PASSAGE_CHARS = 1_000_000
WITHOUT_PASSAGE = "Answer briefly and plainly. If you do not know, say so."
FROM_PASSAGE = (
    "You answer questions from a passage. Use only what the passage says. If it does not answer the question, say "
    "that it does not. Answer briefly and plainly."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of the verb."""
    parser.add_argument("text", metavar="TEXT", help="the question")
    parser.add_argument("--receipt", type=Path, metavar="FILE", help="write the answer's bundle there")
    parser.add_argument("--model", metavar="NAME|FILE", help="of those that are served; else started for this call")
    parser.add_argument("--max-tokens", type=int, default=400, help="the longest answer (400)")
    parser.add_argument("--seed", type=int, default=1, help="the same seed and question give a like answer (1)")
    parser.add_argument("--json", action="store_true", help="the answer as one JSON object")


def run(arguments: argparse.Namespace) -> int:
    """Ask a running gateway, or one started for the call."""
    if arguments.receipt is not None and (
        not arguments.receipt.absolute().parent.is_dir() or arguments.receipt.is_dir()
    ):
        raise Invalid(f"{arguments.receipt} cannot be written: no folder, or a folder itself", param="--receipt")
    settings = load_settings(models_said([arguments.model] if arguments.model else None))
    body = {
        "messages": messages(arguments.text, _passage()),
        "max_tokens": arguments.max_tokens,
        "seed": arguments.seed,
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    with (
        find_or_start_gateway(settings) as url,
        closing(Client(url, Home(settings.home).local_key)) as client,
    ):
        model = client.model(arguments.model)
        if not model["allod"]["informative"]:
            print(f"note: {model['id']} is too small to be right: this is not information", file=sys.stderr)
        answer = client.chat({"model": model["id"], **body}, show=_no_words if arguments.json else _show)
        bundle = client.bundle(answer) if arguments.receipt is not None else None
    if not arguments.json:
        print()
    if bundle is not None:
        _write(arguments.receipt, bundle)
    if arguments.json:
        print(json_text(_report(answer, model["id"], arguments.receipt)))
    elif answer.finish == "length":
        print(f"note: cut off after {arguments.max_tokens} tokens (--max-tokens)", file=sys.stderr)
    return 0


def messages(question: str, passage: str) -> list[dict[str, str]]:
    """The conversation that asks `question`, of `passage` where there is one."""
    if not passage:
        return [{"role": "system", "content": WITHOUT_PASSAGE}, {"role": "user", "content": question}]
    content = f"Passage:\n\n{passage}\n\nQuestion: {question}"
    return [{"role": "system", "content": FROM_PASSAGE}, {"role": "user", "content": content}]


def _passage() -> str:
    """What was piped in; nothing on a terminal or from a closed stdin."""
    if sys.stdin is None or sys.stdin.isatty():
        return ""
    try:
        text = sys.stdin.buffer.read(4 * MAX_PASSAGE_CHARS + 1).decode("utf-8").strip()
    except UnicodeDecodeError as error:
        raise Invalid("the passage on stdin is not UTF-8 text", code="passage_encoding") from error
    if len(text) > MAX_PASSAGE_CHARS:
        raise Invalid(f"the passage on stdin is longer than {MAX_PASSAGE_CHARS} characters", code="passage_too_long")
    return text


def _show(text: str) -> None:
    print(text, end="", flush=True)


def _no_words(text: str) -> None:
    """With --json the answer is printed once, whole."""


def _write(path: Path, bundle: bytes) -> None:
    """Readable by its owner only: the bundle holds the question and the answer."""
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(handle, "wb") as file:
        os.fchmod(handle, 0o600)  # the file may have been there, readable by others
        file.write(bundle)
    print(f"receipt {path}", file=sys.stderr)


def _report(answer: ClientAnswer, model: str, receipt: Path | None) -> dict[str, object]:
    return {
        "answer": answer.text,
        "finish": answer.finish,
        "model": model,
        "receipt_id": answer.receipt_id,
        "receipt": str(receipt) if receipt else None,
        "usage": answer.usage,
    }
