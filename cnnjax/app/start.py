"""Where a run's first parameters come from: drawn, or those of another run or of a weights file."""

from __future__ import annotations

from pathlib import Path

from flax import nnx

from cnnjax import interop, train
from cnnjax.errors import UserError


def start_from(net: nnx.Module, source: str | None) -> nnx.Module:
    """Returns the net with what fits by name and shape of `--init_from`; prints what was drawn afresh.

    Args:
      net: as drawn from the seed.
      source: a run's folder, or a weights file of PyTorch or safetensors; None leaves the net as drawn.

    Raises:
      UserError: it cannot be read, or nothing of it fits.
    """
    if source is None:
        return net
    try:
        if Path(source).is_dir():
            state, _ = train.restore(source)
            net, taken, drawn = interop.load_matching(net, state.get("average") or state["params"], state["rest"])
        else:
            net, taken, drawn = interop.load_matching(net, source)
    except UserError as error:
        raise UserError(f"--init_from={source}: {error}") from error
    print(f"from {source}: {len(taken)} arrays; drawn afresh: {', '.join(drawn) or 'none'}")
    return net
