"""The tree of errors: stable codes, what a terminal shows, and how a program ends."""

from __future__ import annotations

import pytest

from allod.core.errors import AllodError, Denied, Invalid, Unavailable, VerificationError, exit_status, explain


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (AllodError("x"), "error"),
        (Invalid("x"), "invalid"),
        (Denied("x"), "denied"),
        (Unavailable("x"), "unavailable"),
        (VerificationError("x", step=4, name="inclusion"), "not_verified"),
    ],
)
def test_every_class_has_a_code_of_its_own(error: AllodError, code: str) -> None:
    """A client can tell the classes apart by `code` even where none was given."""
    assert error.code == code
    assert str(error) == error.message == "x"


def test_a_code_of_one_error_is_not_its_classes() -> None:
    """Giving one error a code leaves the next one with its class's own."""
    assert Invalid("x", code="model_unknown").code == "model_unknown"
    assert Invalid("x").code == "invalid"


def test_the_hint_comes_after_a_blank_line() -> None:
    """What happened, then what to do; nothing but what happened where there is no hint."""
    assert explain(Invalid("it is broken", hint="mend it")) == "error: it is broken\n\nhint: mend it"
    assert explain(Invalid("it is broken")) == "error: it is broken"


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (Denied("x"), 1),
        (VerificationError("x", step=1, name="bundle"), 1),
        (Invalid("x"), 2),
        (Unavailable("x"), 3),
        (AllodError("x"), 1),
    ],
)
def test_the_exit_status_says_what_kind_of_no_it_is(error: AllodError, status: int) -> None:
    """1 the answer is no, 2 wrong usage or settings, 3 unavailable."""
    assert exit_status(error) == status


def test_an_error_that_is_restated_keeps_what_is_not_said_anew() -> None:
    """Class, code and promises; the first one stays as it was."""
    first = Unavailable("it starts", code="engine_starting", hint="wait", retry_after_s=2)
    again = first.restate(f"one: {first.message}")
    assert (type(again), str(again), again.message) == (Unavailable, "one: it starts", "one: it starts")
    assert (again.code, again.hint, again.retry_after_s) == ("engine_starting", "wait", 2)
    failed = VerificationError("x", step=4, name="inclusion").restate(hint="look")
    assert (failed.message, failed.hint, failed.step, failed.name) == ("x", "look", 4, "inclusion")
    assert (first.message, first.hint) == ("it starts", "wait")


def test_a_promise_to_be_back_is_made_only_where_it_is_meant() -> None:
    """`retry_after_s` is None unless it was set."""
    assert Unavailable("x").retry_after_s is None
    assert Unavailable("x", retry_after_s=2).retry_after_s == 2


def test_a_failed_verification_names_its_step() -> None:
    """Number and name, as the specification has them."""
    error = VerificationError("the root differs", step=4, name="inclusion")
    assert (error.step, error.name) == (4, "inclusion")
