"""Parametrised tests kept short: many rows in one case, and random draws of which the first few run every day."""

import inspect

import pytest


def in_one_case(names, rows):
    """As pytest.mark.parametrize, for rows too cheap for a case each: all are run, and those that fail are named."""
    names = [names] if isinstance(names, str) else list(names)

    def decorate(test):
        def together(**others):
            failures = []
            for row in rows:
                try:
                    test(**dict(zip(names, [row] if len(names) == 1 else row, strict=True)), **others)
                except (Exception, pytest.fail.Exception) as error:
                    failures.append(f"{row}: {error!r}")
            assert not failures, "\n".join(failures)

        wanted = inspect.signature(test).parameters
        together.__signature__ = inspect.Signature([p for name, p in wanted.items() if name not in names])
        together.__name__, together.__doc__, together.__module__ = test.__name__, test.__doc__, test.__module__
        together.pytestmark = getattr(test, "pytestmark", [])
        return together

    return decorate


def draws(everyday, total, start=0):
    """Seeds to parametrise by: the first ones run every day, the others are slow."""
    return [
        pytest.param(start + number, marks=[] if number < everyday else [pytest.mark.slow]) for number in range(total)
    ]
