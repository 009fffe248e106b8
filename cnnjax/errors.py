"""The exception whose message is meant for the user, without the traceback."""


class UserError(Exception):
    """Raised where the user's input cannot be used, or the machine refuses (a full disk, a missing data set).

    The message is one or two sentences: what is wrong, what it was, what it must be, what to do. Entry points print
    it and exit with code 1. `cnnjax.ops` raises plain `ValueError` and `TypeError`.
    """
