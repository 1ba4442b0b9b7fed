"""The one error type that users see: a sentence naming file, tensor or field, what was expected and what came."""


class SplatlearnError(ValueError):
    """Raised for anything a user can mend; its message is one complete sentence."""
