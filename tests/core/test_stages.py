"""The table of stages: what every room that reads it may rely on."""

from __future__ import annotations

import pytest

from allod.core.stages import (
    ADAPTER_STAGES,
    DOCUMENTS_FILE,
    EVALUATION_FILE,
    INDEX_FILE,
    LEARNT,
    MODEL_STAGES,
    ROWS,
    SOURCES_FILE,
    StageRow,
)

both = pytest.mark.parametrize("rows", [MODEL_STAGES, ADAPTER_STAGES], ids=["model", "adapter"])


@both
def test_what_goes_into_a_stage_was_made_before_it(rows: tuple[StageRow, ...]) -> None:
    """A run goes down the table once."""
    for number, row in enumerate(rows):
        before = [earlier.name for earlier in rows[:number]]
        assert set(row.inputs_after(before)) <= set(before)


@both
@pytest.mark.parametrize("record", [SOURCES_FILE, INDEX_FILE, DOCUMENTS_FILE, EVALUATION_FILE])
def test_one_stage_keeps_each_record_that_a_release_needs(rows: tuple[StageRow, ...], record: str) -> None:
    """Whoever verifies looks for it in one place."""
    assert len([row for row in rows if record in row.records]) == 1


@both
def test_a_stage_that_learns_names_its_weights_and_the_last_stage_exports(rows: tuple[StageRow, ...]) -> None:
    """An evaluation is of that file, and a release is of what the last stage made."""
    assert all(bool(row.weights) == (row.role == "weights") for row in rows)
    assert [row.role for row in rows].index("export") == len(rows) - 1


def test_the_weights_that_go_on_are_those_that_were_learnt_last() -> None:
    """Tuned ones, where the recipe asks for tuning."""
    assert LEARNT in ROWS["evaluate"].inputs
    assert ROWS["evaluate"].inputs_after(["pretrain"])[-1] == "pretrain"
    assert ROWS["evaluate"].inputs_after(["pretrain", "tune"])[-1] == "tune"
