"""Every public op has its rows, its oracle and its layer; a new one that lacks any fails with what to add."""

from __future__ import annotations

import ast
import functools
from pathlib import Path

import pytest

from cnnjax import layers, ops
from cnnjax.ops import activations
from tests.ops.examples import WITHOUT_ARRAYS, example_of

HERE = Path(__file__).parent

#: Per op a test against nested loops, a formula, a peer or numbers computed by hand: the file, and the function.
ORACLES = {
    "adaptive_avg_pool": ("pool/test_by_index.py", "test_adaptive_pools_against_the_oracle"),
    "adaptive_max_pool": ("pool/test_by_index.py", "test_adaptive_pools_against_the_oracle"),
    "avg_pool": ("pool/test_pool.py", "test_avg_pool_against_the_oracle"),
    "batch_norm": ("test_batch_norm.py", "test_the_formula_and_its_derivatives"),
    "batch_norm_max_pool": ("test_norm_pool.py", "test_against_the_oracles_of_both"),
    "channel_shuffle": ("test_patches.py", "test_shuffles_against_pytorch"),
    "connected_conv": ("conv/test_unshared.py", "test_connected_conv_against_the_oracle"),
    "conv": ("conv/test_conv.py", "test_against_the_oracle"),
    "conv_input_grad": ("conv/test_formulas.py", "test_against_autodiff_and_the_oracle"),
    "conv_kernel_grad": ("conv/test_formulas.py", "test_against_autodiff_and_the_oracle"),
    "conv_transpose": ("conv/test_kinds.py", "test_conv_transpose_against_pytorch"),
    "deform_conv": ("conv/test_deform.py", "test_against_the_definition"),
    "depthwise_conv": ("conv/test_kinds.py", "test_depthwise_and_separable_conv_against_the_oracle"),
    "fold": ("test_patches.py", "test_unfold_and_fold_against_the_oracle"),
    "fractional_max_pool": ("pool/test_by_index.py", "test_fractional_max_pool_against_the_oracle"),
    "global_avg_pool": ("pool/test_pool.py", "test_global_pools_against_the_oracles"),
    "global_max_pool": ("pool/test_pool.py", "test_global_pools_against_the_oracles"),
    "local_conv": ("conv/test_unshared.py", "test_local_conv_against_the_oracle"),
    "local_response_norm": ("test_normalize.py", "test_against_the_oracle_and_pytorch"),
    "lp_pool": ("pool/test_pool.py", "test_lp_pool_against_the_oracle"),
    "max_pool": ("pool/test_pool.py", "test_max_pool_against_the_oracle"),
    "max_unpool": ("pool/test_by_index.py", "test_max_unpool_against_the_oracle_and_pytorch"),
    "min_pool": ("pool/test_pool.py", "test_hand_computed"),
    "output_shape": ("test_geometry.py", "test_output_shape"),
    "pad": ("test_patches.py", "test_pad_against_the_oracle_and_pytorch"),
    "pixel_shuffle": ("test_patches.py", "test_shuffles_against_the_oracle"),
    "pixel_unshuffle": ("test_patches.py", "test_shuffles_against_the_oracle"),
    "pool": ("pool/test_pool.py", "test_pool_against_the_oracle"),
    "receptive_field": ("test_geometry.py", "test_receptive_field"),
    "separable_conv": ("conv/test_kinds.py", "test_depthwise_and_separable_conv_against_the_oracle"),
    "stochastic_pool": ("pool/test_by_index.py", "test_mean_by_value_against_its_formula"),
    "toeplitz_matrix": ("conv/test_algorithms.py", "test_toeplitz_matrix_against_the_oracle"),
    "true_conv": ("conv/test_kinds.py", "test_true_conv_against_scipy"),
    "unfold": ("test_patches.py", "test_unfold_and_fold_against_the_oracle"),
}

#: Activation functions of a trained parameter; those without one need no layer.
WITH_PARAMETER = {"prelu": "PReLU", "scaled_sigmoid": "ScaledSigmoid", "swish": "Swish"}

#: Ops without a layer: of indices beside the array, formulas, and geometry in plain ints.
WITHOUT_LAYER = (
    *("max_unpool", "conv_input_grad", "conv_kernel_grad", "toeplitz_matrix"),
    *WITHOUT_ARRAYS,
)

#: All that is no activation function; those have tests that run over `activations.__all__`, see below.
OTHERS = [name for name in ops.__all__ if name not in activations.__all__]


@functools.cache
def tree(file: str) -> ast.Module:
    return ast.parse((HERE / file).read_text())


def table(file: str, name: str) -> dict[str, ast.expr]:
    """A dictionary with strings as keys, written out at the top of a file: its keys, and the code of its values."""
    (value,) = (
        node.value for node in tree(file).body if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == name
    )
    assert isinstance(value, ast.Dict)
    return {ast.literal_eval(key): code for key, code in zip(value.keys, value.values, strict=True) if key is not None}


def names_of_ops(code: ast.AST) -> set[str]:
    """Each NAME of which `ops.NAME` stands in some code."""
    return {
        node.attr for node in ast.walk(code) if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "ops"
    }


def function(file: str, name: str) -> ast.FunctionDef | None:
    return next((f for f in tree(file).body if isinstance(f, ast.FunctionDef) and f.name == name), None)


def of_same_object(name: str) -> set[str]:
    """All spellings of an op."""
    return {other for other in ops.__all__ if getattr(ops, other) is getattr(ops, name)}


@pytest.mark.parametrize("name", [name for name in ops.__all__ if name not in WITHOUT_ARRAYS])
def test_transformation_row(name: str) -> None:
    rows = table("test_transformations.py", "OPS")
    if name in activations.__all__:
        together = set().union(*(names_of_ops(code) for row, code in rows.items() if row.startswith("activations")))
        assert of_same_object(name) & together, (
            f"add ops.{name} to an activations row of OPS in test_transformations.py"
        )
    else:
        assert name in {row.split()[0] for row in rows}, f"give {name} a row in OPS of test_transformations.py"


@pytest.mark.parametrize("name", [name for name in OTHERS if name not in WITHOUT_ARRAYS])
def test_precision_row(name: str) -> None:
    exact = function("test_precision.py", "test_max_unpool_and_the_other_selections_are_exact")
    assert exact is not None
    summing = {row.split()[0] for row in table("test_precision.py", "ROWS")}
    assert name in summing | names_of_ops(exact), (
        f"give {name} a row in ROWS of test_precision.py or, if it only moves elements, a line in the test of exact ops"
    )


@pytest.mark.parametrize("name", OTHERS)
def test_oracle(name: str) -> None:
    assert name in ORACLES, f"test {name} against an oracle or a peer, and name that test in ORACLES"
    file, test = ORACLES[name]
    code = function(file, test)
    assert code is not None, (
        f"ORACLES names {test}, which is not in tests/ops/{file}: name the test that took its place"
    )
    assert name in ast.unparse(tree(file)), f"tests/ops/{file} says nothing of {name}"


#: The tests that hold activation functions to PyTorch's or to formulas.
PEERS = (
    "test_elementwise_against_pytorch",
    "test_along_an_axis_against_pytorch",
    "test_what_pytorch_lacks",
    "test_sparsemax_is_the_projection_on_the_simplex",
)


@pytest.mark.parametrize("name", activations.__all__)
def test_activations_have_a_peer(name: str) -> None:
    """Functions of jax.nn need no other: that they are jax.nn's is tested through their argument checks."""
    if getattr(ops, name).__module__.endswith("from_jax"):
        return
    code = [function("test_activations.py", test) for test in PEERS]
    assert None not in code, "name in PEERS the tests that took the place of these"
    pairs = next(n for n in tree("test_activations.py").body if isinstance(n, ast.Assign) and "PAIRS" in ast.unparse(n))
    strings = {
        node.value for part in (*code, pairs) for node in ast.walk(part) if isinstance(node, ast.Constant)
    } | set().union(*map(names_of_ops, code))
    assert of_same_object(name) & strings, f"test {name} against PyTorch or a formula in test_activations.py"


@pytest.mark.parametrize("name", [*WITH_PARAMETER, *(name for name in OTHERS if name not in WITHOUT_LAYER)])
def test_layer(name: str) -> None:
    layer = WITH_PARAMETER.get(name, "".join(map(str.capitalize, name.split("_"))))
    assert hasattr(layers, layer), f"add layers.{layer} over ops.{name}, or {name} to WITHOUT_LAYER with the reason"


@pytest.mark.parametrize("name", [name for name in ops.__all__ if name not in WITHOUT_ARRAYS])
def test_example(name: str) -> None:
    """By its example an op is tested on meshes, in jax.export, under strict promotion and JAX's debugging tools."""
    example_of(name)


def test_the_lists_name_no_op_that_is_gone() -> None:
    assert set(ORACLES) == set(OTHERS) and set(WITHOUT_LAYER) <= set(OTHERS)
