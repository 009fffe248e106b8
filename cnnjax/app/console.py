"""Shows a run in the terminal."""

from __future__ import annotations

import sys
from collections.abc import Mapping

from tqdm import tqdm

from cnnjax import train
from cnnjax.app import interruptions
from cnnjax.train import devices


class Console(train.Watch):
    """Draws a progress bar on standard error, and prints each evaluation."""

    def warn(self, sentence: str) -> None:
        """Prints a warning on standard error."""
        print(f"warning: {sentence}", file=sys.stderr)

    def begin(self, done: int, total: int) -> None:
        """Draws the bar."""
        if done:
            print(f"resuming after update {done} of {total}")
        self.bar = progress(total, done)

    def placed(self, on_each: int, in_all: int) -> None:
        """Prints what each device holds of the training state, where that is not all of it."""
        if on_each < in_all:
            print(f"the training state takes {on_each / 1e6:,.1f} MB on each device, of {in_all / 1e6:,.1f} MB")

    def update(self, count: int, values: Mapping[str, float], examples_per_second: float | None) -> None:
        """Moves the bar, and shows the means and the speed beside it."""
        self.bar.update(count)
        if values:
            shown = [f"{name.removeprefix('train_')} {text(name, value)}" for name, value in values.items()]
            self.bar.set_postfix_str(f"{', '.join(shown)}, {examples_per_second:,.0f} examples/s", refresh=False)

    def evaluated(self, epoch: int, step: int, values: Mapping[str, float]) -> None:
        """Prints the scores above the bar."""
        shown = ", ".join(f"{name.replace('_', ' ')} {value:.4f}" for name, value in values.items())
        self.bar.write(f"epoch {epoch}, step {step}: {shown}", file=sys.stdout)

    def stopping(self, signal: str) -> None:
        """Says that the run is saved first."""
        interruptions.say(f"{signal}: saving, then leaving (Ctrl-C again to leave at once)")

    def end(self) -> None:
        """Closes the bar."""
        self.bar.close()


def progress(total: int, first: int) -> tqdm:
    """Returns a progress bar of updates on standard error; of several processes the first alone draws it.

    In a log file it is a line every ten seconds.
    """
    return tqdm(
        total=total,
        initial=first,
        unit="step",
        dynamic_ncols=True,
        mininterval=0.5 if sys.stderr.isatty() else 10,
        disable=not devices.is_main(),
    )


def text(name: str, value: float) -> str:
    """Returns a score as text: accuracies and shares in per cent."""
    return f"{value:.1%}" if name.endswith(("accuracy", "top5")) else f"{value:.4g}"
