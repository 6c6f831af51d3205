"""`allod tune`: which settings of `[model]` suit this machine, by measuring them."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import asdict
from statistics import median
from typing import Any

from rich.console import Console
from rich.table import Table

from allod.app.home import Home, load_settings
from allod.app.tuning.figures import spread
from allod.app.tuning.lines import Values, model_lines, write_values
from allod.app.tuning.race import LEAST_AGREEMENT, LEAST_ROUNDS, WORTH
from allod.app.tuning.tune import MEMORY_SHARE, Outcome, Tried, tune
from allod.cli.json_text import json_text
from allod.cli.progress import show_progress
from allod.cli.running import find_gateway
from allod.core.errors import Invalid, Unavailable
from allod.core.shown_text import make_plain
from allod.settings.tree import ModelOptions, Settings

ENDINGS = {
    "clear": "all rounds were run that could change the result",
    "time": "the time was over: what is kept is used the next time",
    "interrupted": "interrupted: what is kept is used the next time",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of the verb."""
    parser.add_argument("--model", metavar="NAME|FILE", help="another model than the one that is set")
    parser.add_argument("--minutes", type=float, default=10.0, metavar="N", help="how long it may take (10)")
    parser.add_argument("--again", action="store_true", help="measure again what was measured before")
    parser.add_argument("--beside", action="store_true", help="although a gateway runs: its work disturbs the figures")
    parser.add_argument("--write", action="store_true", help="put what is better into allod.toml")
    parser.add_argument("--json", action="store_true")


def run(arguments: argparse.Namespace) -> int:
    """Measure, say what was found, and write it where that was asked for; 130 where it was interrupted."""
    if not 0 < arguments.minutes <= 24 * 60:
        raise Invalid("--minutes must be more than 0, and a day at most", code="usage")
    settings = load_settings({"model.name": arguments.model})
    url = find_gateway(Home(settings.home))
    if url is not None and not arguments.beside:
        raise Unavailable(
            f"a gateway of this realm runs at {url}: its work and these measurements would disturb each other",
            code="gateway_runs",
            hint="stop it first, or say --beside",
        )
    with show_progress(are_bytes=False) as progress:
        outcome = tune(settings, minutes=arguments.minutes, again=arguments.again, progress=progress)
    better = _changes(outcome, settings, load_settings().model)
    file = settings.home / "allod.toml"
    is_written = bool(arguments.write and better and outcome.ending != "interrupted")
    if is_written:
        write_values(file, better)
    if arguments.json:
        print(json_text({**_as_json(outcome), "changes": better, "written": is_written}))
    else:
        _print(outcome, better, settings.model.name)
        if arguments.write:
            print(f"written to {file}" if is_written else "nothing is written")
    return 130 if outcome.ending == "interrupted" else 0


def _changes(outcome: Outcome, settings: Settings, now: ModelOptions) -> Values:
    """What of `[model]` is to be set otherwise than the file has it: nothing where what is set is best."""
    best = outcome.best
    if best == outcome.reference:
        return {}
    name = settings.model.name if best.file == outcome.reference.file else str(best.file)
    wanted: dict[str, int | str] = {
        "name": name,
        "threads": best.threads,
        "slots": best.slots,
        "replicas": best.replicas,
    }
    return {key: value for key, value in wanted.items() if getattr(now, key) != value}


def _print(outcome: Outcome, better: Values, name: str) -> None:
    console = Console(width=None if Console().is_terminal else 200)
    print(f"{make_plain(outcome.model, limit=100)} on {make_plain(outcome.machine, limit=200)}")
    table = Table(
        "settings", "rounds", "by what is set", "answers", "prompts", "together", "first", "memory", "energy", "alike"
    )
    for tried in sorted(outcome.tried, key=lambda each: median(each.ratios or (1.0,)), reverse=True):
        table.add_row(*_cells(tried, outcome), style="bold" if tried.configuration == outcome.best else None)
    console.print(table)
    print(
        "answers, prompts, together: tokens/s; first: seconds to the first token of a short chat; energy: of a round;"
    )
    print(
        f"alike: tokens as what is set chooses them, below {LEAST_AGREEMENT:.0%} it is out; median (least to greatest)"
    )
    for tokens, mib in outcome.contexts:
        fits = outcome.free_mib is None or mib * MEMORY_SHARE <= outcome.free_mib
        print(f"context {tokens}: {mib} MiB{'' if fits else ', more than half of what is available'}")
    print(f"{outcome.num_measured} measurements; {ENDINGS[outcome.ending]}")
    if outcome.best == outcome.reference:
        print(f"what is set stays: nothing was better in each of {LEAST_ROUNDS} rounds or more, and by {WORTH - 1:.0%}")
    else:
        print(f"better than what is set: put this into allod.toml\n\n{model_lines(better)}", end="")


def _cells(tried: Tried, outcome: Outcome) -> tuple[str, ...]:
    configuration, good = tried.configuration, [each for each in tried.rounds if not each.error]
    file = "" if configuration.file == outcome.reference.file else f"{make_plain(configuration.file.name, limit=60)}, "
    what = f"{file}{configuration}"
    if not good:
        return (what, str(len(tried.rounds)), make_plain(tried.rounds[-1].error, limit=80), *[""] * 7)
    is_set = configuration == outcome.reference
    joules = [each.millijoules / 1000 for each in good if each.millijoules is not None]
    return (
        what,
        str(len(tried.rounds)),
        "set today" if is_set else spread(tried.ratios) if tried.ratios else "",
        spread([each.answer_tokens_s for each in good], 1),
        spread([each.prompt_tokens_s for each in good], 1),
        spread([each.together_tokens_s for each in good], 1),
        spread([each.first_token_s for each in good]),
        f"{max(each.memory_mib for each in good)} MiB",
        f"{spread(joules, 0)} J" if joules else "UNAVAILABLE",
        "" if is_set or tried.agreement is None else f"{tried.agreement:.0%}",
    )


def _as_json(outcome: Outcome) -> Mapping[str, Any]:
    """The outcome as JSON has it: without the answers, which are in the file that keeps them."""
    told = asdict(outcome)
    for one, tried in zip(told["tried"], outcome.tried, strict=True):
        one["rounds"] = [
            {key: value for key, value in asdict(each).items() if key != "answers"} for each in tried.rounds
        ]
    for place in (told["reference"], told["best"], *(each["configuration"] for each in told["tried"])):
        place["file"] = str(place["file"])
    return told
