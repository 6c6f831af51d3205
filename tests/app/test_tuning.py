"""What `allod tune` decides, over an engine that is a model of one: what is tried, who is measured, who is best."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from allod.app.tuning.configuration import Configuration, configurations_to_try, larger_contexts
from allod.app.tuning.figures import Figures, agreement
from allod.app.tuning.lines import model_lines, put_values, write_values
from allod.app.tuning.race import LEAST_ROUNDS, MOST_ROUNDS, find_best, most_laps_left, next_lap
from allod.core.errors import Invalid

SET = Configuration(Path("m.gguf"), threads=1, slots=4, replicas=1, context_tokens=4096)
NOBODY: frozenset[Configuration] = frozenset()
Pace = Callable[[Configuration], float]


def run_race(
    to_try: list[Configuration], pace: Pace, refused: frozenset[Configuration] = NOBODY
) -> tuple[Configuration, int]:
    """The best of a whole race and how many measurements it took, the reference's left out."""
    ratios: dict[Configuration, list[float]] = {}
    num_measured = 0
    while (lap := next_lap(to_try, ratios, refused=refused)).runners:
        num_measured += len(lap.runners)
        for runner in lap.runners:
            assert len(ratios.setdefault(runner, [])) == lap.number
            ratios[runner].append(pace(runner))
    return find_best(to_try, ratios, refused=refused), num_measured


def test_what_is_set_is_tried_first_and_no_more_threads_than_cores() -> None:
    """Whatever the machine; the other files of a model are tried with what is set."""
    other = Path("other.gguf")
    for num_cores in (1, 2, 8, 72):
        to_try = configurations_to_try(SET, num_cores=num_cores, files=[SET.file, other])
        assert to_try[0] == SET
        assert len(set(to_try)) == len(to_try)
        assert all(one.threads * one.replicas <= num_cores for one in to_try)
        assert [one for one in to_try if one.file == other] == [replace(SET, file=other)]


def test_contexts_grow_up_to_what_the_model_was_made_for() -> None:
    assert [one.context_tokens for one in larger_contexts(SET, 10_000)] == [8192, 10_000]
    assert larger_contexts(SET, 4096) == []


def test_a_faster_configuration_is_found_in_few_measurements() -> None:
    """Half of what runs is left out after each round."""
    to_try = configurations_to_try(SET, num_cores=72, files=[])
    fast = to_try[-3]
    best, num_measured = run_race(to_try, lambda one: 1.5 if one == fast else 1.0)
    assert best == fast
    assert num_measured < 2 * len(to_try) + MOST_ROUNDS


@given(st.integers(0, 10_000))
def test_noise_alone_changes_nothing(seed: int) -> None:
    """Where all are alike within 4 %, what is set stays: a median must gain more than that."""
    draw = random.Random(seed)
    to_try = configurations_to_try(SET, num_cores=8, files=[])
    assert run_race(to_try, lambda one: draw.uniform(0.96, 1.04))[0] == SET


@given(st.integers(0, 10_000))
def test_a_gain_beyond_the_noise_is_found(seed: int) -> None:
    draw = random.Random(seed)
    to_try = configurations_to_try(SET, num_cores=4, files=[])
    fast = to_try[-1]
    best, _ = run_race(to_try, lambda one: draw.uniform(0.96, 1.04) * (1.3 if one == fast else 1))
    assert best == fast


def test_a_race_that_is_clear_ends_early() -> None:
    """After the least number of rounds, as soon as one outruns all others in each."""
    paces = {one: 0.5 for one in configurations_to_try(SET, num_cores=4, files=[])}
    fast = list(paces)[-1]
    ratios = {one: [pace] * LEAST_ROUNDS for one, pace in (paces | {fast: 2.0}).items()}
    assert next_lap(list(paces), ratios, refused=NOBODY).runners == ()


def test_one_that_does_not_start_is_not_started_again() -> None:
    """Its score is 0, and it is out after the first round."""
    to_try = [SET, replace(SET, threads=2), replace(SET, threads=3)]
    ratios = {to_try[1]: [0.0], to_try[2]: [1.0]}
    assert next_lap(to_try, ratios, refused=NOBODY).runners == (to_try[2],)


def test_who_answers_otherwise_is_never_best() -> None:
    """However fast."""
    to_try = [SET, replace(SET, file=Path("broken.gguf"))]
    assert run_race(to_try, lambda one: 9.0, frozenset(to_try[1:])) == (SET, 0)


def test_too_few_rounds_say_nothing() -> None:
    """A race that was stopped recommends only what has been in enough rounds."""
    fast = replace(SET, threads=2)
    assert find_best([SET, fast], {fast: [2.0] * (LEAST_ROUNDS - 1)}, refused=NOBODY) == SET
    assert find_best([SET, fast], {fast: [2.0] * LEAST_ROUNDS}, refused=NOBODY) == fast
    assert find_best([SET, fast], {fast: [2.0, 2.0, 0.99]}, refused=NOBODY) == SET


def test_what_is_left_is_never_told_too_low() -> None:
    """The bound on the measurements that are left holds for a whole race."""
    to_try = configurations_to_try(SET, num_cores=8, files=[])
    draw = random.Random(1)
    _, num_measured = run_race(to_try, lambda one: draw.uniform(0.9, 1.1))
    assert num_measured + LEAST_ROUNDS <= most_laps_left(len(to_try) - 1, 0)


def test_agreement_is_counted_up_to_the_first_difference() -> None:
    """What follows it answers another text; who ends earlier chose differently once."""
    assert agreement([("a", "b")], [("a", "b")]) == 1.0
    assert agreement([("a", "x", "c")], [("a", "b", "c")]) == 0.5
    assert agreement([("a",)], [("a", "b")]) == 0.5
    assert agreement([("a", "b"), ("x",)], [("a", "b"), ("y",)]) == pytest.approx(2 / 3)
    assert agreement([], []) == 0.0


def test_a_score_needs_all_three_rates() -> None:
    """One that fails at one of them has none."""
    assert Figures(answer_tokens_s=2, prompt_tokens_s=4, together_tokens_s=8).score == pytest.approx(4)
    assert Figures(answer_tokens_s=2, prompt_tokens_s=4).score == 0
    assert Figures(answer_tokens_s=2, prompt_tokens_s=4, together_tokens_s=8, error="it ended").score == 0


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("", "[model]\nthreads = 2\n"),
        ("[realm]\nsite = 'x'", "[realm]\nsite = 'x'\n\n[model]\nthreads = 2\n"),
        ("[model]  # mine\nname = 'a'\n", "[model]  # mine\nthreads = 2\nname = 'a'\n"),
        ("[model]\n  threads=1   # why\n[realm]\n", "[model]\n  threads=2   # why\n[realm]\n"),
        ("[model]\r\nthreads = 1\r\n# end", "[model]\r\nthreads = 2\r\n# end"),
        ("[model]\nslots = 1\n[prices]\n# threads = 1\n", "[model]\nthreads = 2\nslots = 1\n[prices]\n# threads = 1\n"),
    ],
)
def test_only_the_lines_that_are_meant_change(before: str, after: str) -> None:
    """Comments, order, spaces and line ends stay, byte for byte."""
    assert put_values(before, {"threads": 2}) == after


@pytest.mark.parametrize(
    "text",
    [
        "model.threads = 1\n",
        "model = {threads = 1}\n",
        "[model]\nthreads = '''\n1'''\n",
        "[realm]\nsite = '''\n[model]\n'''\n",
        "[['model']]\nthreads = 1\n",
        "['model']\nthreads = 1\n",
    ],
)
def test_a_file_that_cannot_be_changed_safely_is_refused(text: str) -> None:
    """What would come of it is read, and must say what was wanted and nothing else."""
    with pytest.raises(Invalid) as told:
        put_values(text, {"threads": 2})
    assert told.value.code == "settings_unwritable"
    assert told.value.hint


def test_a_name_with_quotes_is_written_as_toml_has_it(tmp_path: Path) -> None:
    """And a link to the file stays one."""
    file, link = tmp_path / "real.toml", tmp_path / "allod.toml"
    file.write_bytes(b'[model]\nname = "x" # \xc3\xa9\n')
    link.symlink_to(file)
    write_values(link, {"name": 'a "b"/\\c.gguf', "slots": 8})
    assert link.is_symlink()
    assert file.read_bytes() == b'[model]\nslots = 8\nname = "a \\"b\\"/\\\\c.gguf" # \xc3\xa9\n'
    assert model_lines({"name": "é", "slots": 8}) == '[model]\nname = "é"\nslots = 8\n'
