"""What holds for all tests: strict promotion, and how thoroughly programs are compiled."""

import os

import jax
import pytest

#: Raise where an op, or a test, promotes a dtype or broadcasts a rank without saying so.
STRICT = True

if STRICT:
    jax.config.update("jax_numpy_dtype_promotion", "strict")
    jax.config.update("jax_numpy_rank_promotion", "raise")
# Most of the suite's time goes to LLVM, most of its programs run once: they are compiled without LLVM's dear passes.
# What XLA makes of our programs is the same.  JAX_DISABLE_MOST_OPTIMIZATIONS=0 gives what users run.
LESS_OPTIMIZED = os.environ.get("JAX_DISABLE_MOST_OPTIMIZATIONS", "1") == "1"
jax.config.update("jax_disable_most_optimizations", LESS_OPTIMIZED)


@pytest.fixture
def optimized():
    """Compiles as users do: for tests of float32's rounding, of time and of memory."""
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", LESS_OPTIMIZED)
