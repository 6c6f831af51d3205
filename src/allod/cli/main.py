"""The command line: which verb, and how errors end it."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
import traceback
from collections.abc import Sequence
from typing import Protocol

from allod import __version__
from allod.core.errors import AllodError, exit_status, explain

VERBS = ("up", "ask", "train", "verify", "seal", "log", "model", "tenant", "key", "policy")


class Verb(Protocol):
    """A module of this room: HELP, `add_arguments` and `run`."""

    HELP: str

    def add_arguments(self, parser: argparse.ArgumentParser) -> None: ...

    def run(self, words: argparse.Namespace) -> int: ...


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb; the exit status: 0 done, 1 the answer is no, 2 wrong usage or settings, 3 unavailable."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    words = _parser_for(given).parse_args(given)
    os.umask(0o077)
    try:
        status: int = words.run(words)
    except AllodError as error:
        if words.verbose:
            traceback.print_exc()
        print(explain(error), file=sys.stderr)
        return exit_status(error)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        sys.stderr.close()
        return 1
    except OSError as error:
        if words.verbose:
            traceback.print_exc()
        print(f"error: {error}", file=sys.stderr)
        return 3
    return status


def parser_of_all() -> argparse.ArgumentParser:
    """The whole command line."""
    return _parser(VERBS)


def _parser_for(given: Sequence[str]) -> argparse.ArgumentParser:
    """The parser of the verb that was said, so that no other is imported; the whole one where none was."""
    said = next((word for word in given if not word.startswith("-")), None)
    return _parser((said,) if said in VERBS else VERBS)


def _parser(names: Sequence[str]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="allod", description="Language models wholly inside your own perimeter.")
    parser.add_argument("--version", action="version", version=f"allod {__version__}")
    verbs = parser.add_subparsers(metavar="VERB", required=True)
    for name in names:
        verb: Verb = importlib.import_module(f"allod.cli.{name}")
        verb_parser = verbs.add_parser(name, help=verb.HELP, description=verb.HELP)
        verb_parser.add_argument("--verbose", action="store_true", help="show where an error came from")
        verb.add_arguments(verb_parser)
        verb_parser.set_defaults(run=verb.run)
    return parser
