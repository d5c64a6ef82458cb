"""What can go wrong, in three kinds: the call's input, one recording, or the run."""

from enum import StrEnum


class BadInput(Exception):
    """The call cannot be carried out as given: wrong usage, a missing or foreign file.

    The message is one line: which file or setting, what is wrong, what to do next.
    The command line prints it and exits with 2.
    """


class RunFailed(Exception):
    """The run started well and could not be finished. The command line exits with 1."""


class Reason(StrEnum):
    """Why a recording could not be scored: the closed set of the rejections table."""

    UNREADABLE = "unreadable"
    TRUNCATED = "truncated"
    TOO_SHORT = "too_short"
    SILENT = "silent"
    NOT_FINITE = "not_finite"
    TOO_LONG = "too_long"
    UNKNOWN_SECTION = "unknown_section"
    VANISHED = "vanished"
    CRASHED = "crashed"


class Rejected(Exception):
    """One recording, or one clip of it, cannot be scored; the rest of the run goes on."""

    def __init__(self, reason: Reason, detail: str, may_pass: bool = False) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail
        self.may_pass = may_pass
        """Whether a later run should try again: what is wrong is not the recording itself."""

    def __reduce__(self) -> tuple[type["Rejected"], tuple[Reason, str, bool]]:
        # The default rebuilds an exception from its message alone, and loses the reason
        # between processes.
        return Rejected, (self.reason, self.detail, self.may_pass)
