"""What a command raises when it cannot do what it was asked to."""

from callcast.exit_codes import ExitCode


class CommandFailed(Exception):
    """Ends a command. The message names the place, the cause and the next step; `main` prints it."""

    def __init__(self, message: str, code: ExitCode = ExitCode.USAGE) -> None:
        super().__init__(message)
        self.code = code
