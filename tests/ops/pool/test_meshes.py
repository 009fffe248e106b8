"""The pools on meshes of eight devices, in processes of their own: this one has a single device."""

import pytest

from tests import processes

KINDS = ("explicit", "auto", "shard_map")


def differences(*arguments):
    printed = processes.module("tests.ops.pool.meshes", *arguments, devices=8)
    assert printed.endswith("done\n")
    return printed.removesuffix("done\n")


@pytest.mark.thorough
def test_meshes_give_the_numbers_of_one_device():
    assert differences(*KINDS, "core") == ""


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_every_pool_on_meshes_gives_the_numbers_of_one_device(kind):
    assert differences(kind, "all") == ""
