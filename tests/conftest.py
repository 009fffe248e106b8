"""What holds for the tests: strict promotion, and how thoroughly programs are compiled."""

import gc
import os

import jax
import jaxlib
import pytest

#: Programs of their own, for processes with eight devices: nothing of them is collected here.
collect_ignore = ["ops/on_meshes.py", "ops/result_shardings.py", "ops/pool/meshes.py"]
#: Tests that still promote, in their own lines or in those of training and its data. All others are strict.
NOT_YET_STRICT = (
    "experiments/test_crops.py",
    "experiments/test_visualize.py",
    "train/test_checkpoint.py",
    "train/test_fit.py",
    "train/test_loop.py",
    "train/test_own_nets.py",
    "train/test_refusals.py",
    "train/test_random.py",
    "train/test_transfers.py",
)
# Most of the suite's time goes to LLVM, most of its programs run once: they are compiled without LLVM's dear passes.
# What XLA makes of our programs is the same.  JAX_DISABLE_MOST_OPTIMIZATIONS=0 gives what users run.
LESS_OPTIMIZED = os.environ.get("JAX_DISABLE_MOST_OPTIMIZATIONS", "1") == "1"
jax.config.update("jax_disable_most_optimizations", LESS_OPTIMIZED)
# Where in Python each operation comes from: a tenth of the time of all lowering, and nobody reads it here.
jax.config.update("jax_traceback_in_locations_limit", 0)
if LESS_OPTIMIZED and jaxlib.version.__version_info__ < (0, 11):
    # Small programs are compiled in half the time by the older emitters, and in one part. Later jaxlibs have lost them,
    # and end the process at flags that they do not know.
    flags = "--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {flags}"


def pytest_collection_finish() -> None:
    """Hides what is imported from the garbage collector, and calls it less often: traces are large and short-lived."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)


@pytest.fixture
def optimized():
    """Compiles as users do: for tests of float32's rounding, of time and of memory."""
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", LESS_OPTIMIZED)


@pytest.fixture(autouse=True)
def strict_promotion(request):
    """Raises where an op, or a test, promotes a dtype or broadcasts a rank without saying so."""
    if str(request.path).endswith(NOT_YET_STRICT):
        yield
        return
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        yield
