"""The steps of a verification, in the words of every verb that verifies."""

from __future__ import annotations

from collections.abc import Sequence

from allod.core.errors import VerificationError
from allod.prove.verify import Step


def steps_before(error: VerificationError, names: Sequence[str]) -> list[Step]:
    """The steps that passed before the one that failed, which is all that is known of them."""
    return [Step(number, name, "passed") for number, name in enumerate(names[: error.step - 1], 1)]


def print_step(step: Step) -> None:
    """A step that passed."""
    print(f"{step.number} {step.name}: {step.detail}")


def print_failed(error: VerificationError, reason: str = "") -> None:
    """The step that failed, and the verdict."""
    print(f"{error.step} {error.name}: FAILED: {error.message}")
    print(f"not verified: {reason or f'step {error.step} ({error.name}) failed'}")
