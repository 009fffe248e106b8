"""The memory that is free, and refusing data that would not fit into it."""

import os

from cnnjax.errors import UserError


def available() -> int:
    """Returns how many bytes new arrays can take without swapping.

    That is Linux's MemAvailable. Other systems do not say, so there it is the machine's memory.
    """
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            for line in file:
                if line.startswith("MemAvailable:"):
                    return 1024 * int(line.split()[1])
    except (OSError, ValueError, IndexError):
        pass
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def fits(size: int) -> bool:
    """Returns whether data of so many bytes fit twice: on the host and on the device, which may be the host."""
    return 2 * size <= available()


def check(size: int, what: str) -> None:
    """Refuses data that need more memory than is free, before they are allocated, see `fits`.

    Args:
      size: in bytes.
      what: the subject of the message, in the plural.

    Raises:
      UserError: they do not fit.
    """
    needed, free = 2 * size, available()
    if needed > free:
        raise UserError(
            f"{what} need {needed / 2**30:,.1f} GiB of memory; {free / 2**30:,.1f} GiB are free. "
            "Choose a smaller image size or data set, or stream it: `--stream=always`, `data.open_dataset`."
        )


def check_images(count: int, height: int, width: int, channels: int, name: str = "") -> None:
    """Refuses uint8 images that need more memory than is free; `name` is that of the data set.

    A single image is one of a stream, for which there was room before: nothing is asked then.
    """
    if count == 1 and not name:
        return
    what = f"The {count:,} images{f' of {name}' if name else ''} at {height}x{width} pixels"
    check(count * height * width * channels, what)
