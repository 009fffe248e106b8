"""PyTorch where it is installed, float64, and the table of what was compared."""

import warnings

import jax
import pytest

from tests.conformance.comparison import print_table


@pytest.fixture(scope="session")
def torch():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip("torch")


@pytest.fixture(autouse=True)
def in_float64():
    with jax.enable_x64(True):
        yield


@pytest.fixture(scope="session", autouse=True)
def table():
    yield
    print_table()
