"""The error that is the user's to fix."""


class UserError(Exception):
    """Bad input: one sentence that names the thing and the remedy.

    Scripts print it without a traceback and exit with code 2 (see `utils.cli.run_script`). Any
    other exception is a bug of ours and keeps its traceback.
    """
