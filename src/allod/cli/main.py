"""The command line: which verb, and how errors end it."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
import traceback
from collections.abc import Collection, Sequence
from io import TextIOWrapper
from typing import NoReturn, Protocol

from allod import __version__
from allod.core.errors import AllodError, Invalid, Unavailable, exit_status, explain
from allod.core.telling import tell

VERBS = {  # and what each does, said here so that a list of them imports none
    "up": "serve a model: sealed engine, gateway and console",
    "ask": "ask one question; text on stdin is the passage to answer from",
    "train": "train a model from a recipe, resumably, and release it signed",
    "verify": "check a receipt's bundle, offline",
    "fleet": "the replicas that answer: status, drain, resume, restart",
    "tune": "find by measurement which settings of [model] suit this machine",
    "seal": "try to get out of this machine's seal",
    "log": "the transparency log: key, head, compare, fsck, accept-clock",
    "model": "the models that this realm has or can get, and what is behind them",
    "tenant": "who shares the engines: labels, quotas and budgets",
    "key": "the keys by which tenants are known",
    "policy": "the policy: check, explain, set, show, history, prove",
}


class _Parser(argparse.ArgumentParser):
    """One whose errors are ours."""

    def error(self, message: str) -> NoReturn:
        raise Invalid(message, code="usage", hint=self.format_usage().strip())


class Verb(Protocol):
    """A module of `verbs`."""

    def add_arguments(self, parser: argparse.ArgumentParser) -> None: ...

    def run(self, arguments: argparse.Namespace) -> int: ...


def main(command: Sequence[str] | None = None) -> int:
    """Run one verb; the exit status: 0 done, 1 the answer is no, 2 wrong usage or settings, 3 unavailable."""
    given = list(sys.argv[1:] if command is None else command)
    arguments = argparse.Namespace(verbose=False, json="--json" in given)  # until they are understood
    os.umask(0o077)
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # as stderr has it: an answer is in any language
    try:
        arguments = _parser_for(given).parse_args(given)
        status: int = arguments.run(arguments)
        print(end="", flush=True)  # here it can still be told that there is no room for it
    except AllodError as error:
        return _end(error, arguments)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        return 1
    except OSError as error:
        return _end(Unavailable(str(error)), arguments)
    finally:
        tell(sys.stdout)
    return status


def _end(error: AllodError, arguments: argparse.Namespace) -> int:
    """Tell of the error that is being handled: on stderr, and with --json on stdout, too, as one object."""
    if arguments.verbose:
        tell(sys.stderr, traceback.format_exc())
    tell(sys.stderr, f"{explain(error)}\n")
    if vars(arguments).get("json"):
        from allod.cli.json_text import json_text  # here, since a list of verbs loads nothing

        told = {"error": {"code": error.code, "message": error.message, "hint": error.hint}}
        tell(sys.stdout, f"{json_text(told)}\n")
    return exit_status(error)


def parser_of_all() -> argparse.ArgumentParser:
    """The whole command line."""
    return _parser(tuple(VERBS))


def _parser_for(given: Sequence[str]) -> argparse.ArgumentParser:
    """The parser that knows the arguments of the verb that was said, so that no other is imported."""
    said = next((word for word in given if not word.startswith("-")), None)
    return _parser((said,) if said in VERBS else ())


def _parser(known: Collection[str]) -> argparse.ArgumentParser:
    """All verbs, and the arguments of those that are `known`."""
    parser = _Parser(prog="allod", description="Language models wholly inside your own perimeter.")
    parser.add_argument("--version", action="version", version=f"allod {__version__}")
    verbs = parser.add_subparsers(metavar="VERB", required=True)
    for name, what in VERBS.items():
        verb_parser = verbs.add_parser(name, help=what, description=what)
        if name in known:
            verb: Verb = importlib.import_module(f"allod.cli.verbs.{name}")
            verb_parser.add_argument("--verbose", action="store_true", help="show where an error came from")
            verb.add_arguments(verb_parser)
            verb_parser.set_defaults(run=verb.run)
    return parser
