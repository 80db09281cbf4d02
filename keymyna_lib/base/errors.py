"""The one exception that a user of this artifact is meant to see."""


class KeyMynaError(Exception):
    """Bad input, or a state that the user can mend: names the file or the parameter and says what to do.

    The runner prints its message alone, without a traceback.
    """
