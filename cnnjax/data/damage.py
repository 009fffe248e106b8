"""Examples that cannot be read, named by file and record."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

from cnnjax.errors import UserError


class CorruptExample(UserError):
    """Raised where one example cannot be read, and the others may be.

    The message names file and record, and the cause. What is wrong with a whole data set is a plain `UserError`.
    """


@contextlib.contextmanager
def named(what: str | os.PathLike) -> Iterator[None]:
    """Raises whatever reading an image raises as a CorruptExample of `what`, a file or a record of one."""
    from PIL import UnidentifiedImageError

    try:
        yield
    except UserError:
        raise
    except UnidentifiedImageError:
        raise CorruptExample(f"{what} is no image that Pillow can read: give a PNG or JPEG file.") from None
    except OSError as error:
        raise CorruptExample(f"{what} cannot be read ({error.strerror or error}).") from None
    except Exception as error:  # a damaged file may cause anything: SyntaxError, struct.error, a decompression bomb
        raise CorruptExample(f"{what} cannot be read ({error}).") from None
