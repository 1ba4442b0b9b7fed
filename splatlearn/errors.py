"""The one error type for users: a sentence that names the file, tensor or field, what was expected and what came."""


class SplatlearnError(ValueError):
    """Error that a user can correct; its message is one complete sentence."""
