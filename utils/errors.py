"""The error that is the user's to fix."""


class UserError(Exception):
    """Bad input: one sentence that names the thing and the remedy.

    Scripts print it without a traceback and exit with code 2, see `utils.options.script`. Any other
    exception is a bug of ours and keeps its traceback.
    """


class RunInterruptedError(Exception):
    """A signal asked the run to stop; nothing is wrong, and all that was trained is saved.

    Args:
        signal: its name, such as SIGTERM.
        exit_code: what the program is to end with.
    """

    def __init__(self, signal: str, exit_code: int) -> None:
        super().__init__(signal, exit_code)  # all of it, so that other processes can be told
        self.signal = signal
        self.exit_code = exit_code

    def __str__(self) -> str:
        return f"stopped by {self.signal}"
