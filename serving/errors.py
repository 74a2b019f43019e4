"""What a client or an operator is told when something cannot be done."""


class BadRequest(ValueError):
    """A request that cannot be answered: what is wrong, in which field, what was expected, what was found."""

    def __init__(self, what: str, where: str, expected: str, got: str) -> None:
        super().__init__(f"{where}: {what}: expected {expected}, got {got}")
        self.what, self.where, self.expected, self.got = what, where, expected, got


class TooLarge(ValueError):
    """A request body over the configured size."""


class NotFound(LookupError):
    """A named thing does not exist in the served snapshot."""


class SnapshotRefused(ValueError):
    """A bundle or delta is whole, but cannot be served: says which, what was expected and what was found."""


class EditorialRefused(ValueError):
    """The file of editorial lists cannot be used."""
