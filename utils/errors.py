"""Exceptions that end a program without a traceback."""


class UserError(Exception):
    """Bad input. The message is one sentence that names the problem and the remedy.

    Scripts print it without a traceback and exit with code 2; see `utils.options.script`. Any other
    exception is a bug in the program and keeps its traceback.
    """


class LoadError(UserError):
    """The loader cannot make the next batch. What was trained before it is complete."""


class RunInterruptedError(Exception):
    """A signal or an option stopped the run; no failure, and all training progress is saved.

    Args:
        cause: name of the signal, such as SIGTERM, or the option.
        exit_code: exit code of the program.
    """

    def __init__(self, cause: str, exit_code: int) -> None:
        super().__init__(cause, exit_code)  # both, so that pickle can send it to other processes
        self.cause = cause
        self.exit_code = exit_code

    def __str__(self) -> str:
        return f"stopped by {self.cause}"
