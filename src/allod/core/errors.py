"""Every error that a person or a client of Allod can meet.

    AllodError
    ├── Invalid             the input is wrong: a request, a setting, a document, a file
    ├── Denied              a control said no: no key, a policy, a quota
    ├── Unavailable         it would work later, or elsewhere; may carry `retry_after_s`
    └── VerificationError   evidence that does not verify; carries the number and name of the failed step

`code` is stable and machine-readable, `message` says what happened, `hint` what to do about it.
"""

from __future__ import annotations

from typing import Self

from allod.core.shown_text import make_plain

_SHOWN_CHARACTERS = 4000


class AllodError(Exception):
    """Root of the tree. `param` names the offending field or setting where there is one.

    `is_recorded`: a receipt with the request's id tells of it, now or a moment later.
    """

    code = "error"

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        hint: str | None = None,
        param: str | None = None,
        is_recorded: bool = False,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.param = param
        self.is_recorded = is_recorded
        if code is not None:
            self.code = code

    def restate(self, message: str | None = None, *, hint: str | None = None, param: str | None = None) -> Self:
        """The same error with these in place of its own, to be raised from it; what is not said stays."""
        again = type(self).__new__(type(self), message or self.message)
        said = {"message": message, "hint": hint, "param": param}
        again.__dict__ |= self.__dict__ | {name: value for name, value in said.items() if value is not None}
        return again


class Invalid(AllodError):
    """The input is wrong, and will be wrong again if it is sent again."""

    code = "invalid"


class Denied(AllodError):
    """A control said no."""

    code = "denied"


class Unavailable(AllodError):
    """Not now. `retry_after_s` is a promise only where it is set."""

    code = "unavailable"

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        hint: str | None = None,
        param: str | None = None,
        is_recorded: bool = False,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message, code=code, hint=hint, param=param, is_recorded=is_recorded)
        self.retry_after_s = retry_after_s


class VerificationError(AllodError):
    """Evidence that does not verify. `step` is 1-based, `name` is the step's name in the specification."""

    code = "not_verified"

    def __init__(self, message: str, *, step: int, name: str, code: str | None = None, hint: str | None = None) -> None:
        super().__init__(message, code=code, hint=hint)
        self.step = step
        self.name = name


def explain(error: AllodError) -> str:
    """What a terminal shows: what happened and, after a blank line, what to do about it. Both may quote others."""
    message = make_plain(error.message, limit=_SHOWN_CHARACTERS)
    hint = "\n".join(make_plain(line, limit=_SHOWN_CHARACTERS) for line in (error.hint or "").split("\n"))
    return f"error: {message}" + (f"\n\nhint: {hint}" if hint else "")


def exit_status(error: AllodError) -> int:
    """1 the answer is no, 2 wrong usage or settings, 3 unavailable."""
    if isinstance(error, Unavailable):
        return 3
    return 2 if isinstance(error, Invalid) else 1
