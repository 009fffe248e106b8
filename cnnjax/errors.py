"""The one exception that means: the user can mend this, show the sentence and not the traceback."""


class UserError(Exception):
    """Something the user gave cannot be used, or the machine refused (a full disk, a missing data set).

    The message is one or two sentences: what was wrong, what it was, what it must be, what to do.
    Entry points print it and exit with code 1. `cnnjax.ops` raises plain `ValueError` and `TypeError`.
    """
