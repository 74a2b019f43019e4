"""Errors of start-up that the command line shows as one line, without a traceback."""


class StartError(RuntimeError):
    """Something outside the program keeps it from starting; the message says what, where and what to do."""


class ConfigError(StartError):
    """The configuration cannot be used; the message names the source, the key and what is expected."""
