"""What holds for the tests: strict promotion, and how thoroughly programs are compiled."""

import os

import jax
import pytest

#: Programs of their own, for processes with eight devices: nothing of them is collected here.
collect_ignore = ["ops/on_meshes.py", "ops/result_shardings.py", "ops/pool/meshes.py"]
#: Tests that still promote, in their own lines or in those of training and its data. All others are strict.
NOT_YET_STRICT = (
    "experiments/test_crops.py",
    "experiments/test_visualize.py",
    "inspect/test_layer_table.py",
    "inspect/test_receptive.py",
    "layers/test_nnx_tools.py",
    "models/test_alexnet.py",
    "models/test_golden_update.py",
    "models/test_lenet5_of_1998.py",
    "models/test_textcnn.py",
    "ops/test_batch_norm.py",
    "ops/test_precision.py",
    "train/test_checkpoint.py",
    "train/test_loop.py",
    "train/test_random.py",
)
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


@pytest.fixture(autouse=True)
def strict_promotion(request):
    """Raises where an op, or a test, promotes a dtype or broadcasts a rank without saying so."""
    if str(request.path).endswith(NOT_YET_STRICT):
        yield
        return
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        yield
