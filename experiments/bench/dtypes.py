"""The dtypes that training steps are compared in."""

from __future__ import annotations

from absl import flags

from cnnjax.app.flags import DTYPES
from cnnjax.errors import UserError

FLAGS = flags.FLAGS
flags.DEFINE_list(
    "dtypes", None, "step, aot: of the computation, parameters stay float32; by default step has float32 alone, aot "
    "float32 and bfloat16"
)  # fmt: skip


def chosen_dtypes(default: list[str], known: tuple[str, ...] = DTYPES) -> list[str]:
    """Returns the dtypes asked for.

    Args:
      default: where none are.
      known: those that the suite has.

    Raises:
      UserError: it does not have one of them.
    """
    for dtype in FLAGS.dtypes or []:
        if dtype not in known:
            raise UserError(f"--dtypes={','.join(FLAGS.dtypes)}: {dtype!r} must be one of {', '.join(known)}.")
    return FLAGS.dtypes or default
