"""Compare runs: one table of mean ± standard deviation, and one picture of their curves.

  python experiments/compare.py runs/sgd runs/adam
  python experiments/compare.py runs/lenet5-seeds runs/20261124-* --out=runs/comparison

RUN is the folder of a run, or a folder of runs, as --seeds leaves them (seed0, seed1, ...). Runs whose settings differ
in the seed alone, or in the fold of a cross-validation, make one row; so do those that differ only in what does not
change the numbers (where the data lie, how often is saved). A row is named by what sets it apart from the others. Its
scores are those of each run's last evaluation; the deviation is that of a sample (n - 1).

Prints the table, and leaves compare.png and compare.json in --out.
"""

from __future__ import annotations

if __name__ == "__main__":  # before the imports, which take seconds
    from cnnjax.app import garbage, interruptions

    interruptions.install()
    garbage.pause()

import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from absl import flags

from cnnjax import report
from cnnjax.app import process
from cnnjax.app.summary import counted
from cnnjax.errors import UserError
from cnnjax.train import metrics, run_dir

FLAGS = flags.FLAGS
flags.DEFINE_string("out", "runs/comparison", "the folder for compare.png and compare.json")

ABSENT = "absent"  # the value of a setting that a run does not have
#: In these the runs of a group differ, and in what does not change the numbers.
REPLICATES = {"seed", "seeds", "fold"}
#: These follow from other settings: they name a group only where nothing else does.
CONSEQUENCES = ("class_names", "data", "data_crc32", "embeddings_crc32", "functions", "input")
#: The scores by which a run's best epoch is told: the first that all runs have.
CRITERIA = ("validation_loss", "test_loss", "train_epoch_loss")
LONGEST_VALUE = 40  # letters of a setting in a label


class Run(NamedTuple):
    """A run: its folder, its config.json and its metrics.jsonl."""

    folder: Path
    config: dict[str, Any]
    records: list[report.Record]


class Group(NamedTuple):
    """Runs that differ in their seeds.

    Attributes:
      runs: at least one.
      differences: the settings that set the group apart from the others, by name.
      label: those in words.
    """

    runs: list[Run]
    differences: dict[str, Any]
    label: str


def main(arguments: list[str]) -> None:
    """Reads the runs, groups them, prints the table, writes the JSON file and the picture."""
    runs = find_runs(arguments)
    names = report.common_scores([run.records for run in runs])
    if not names:
        listed = "; ".join(f"{run.folder}: {', '.join(report.common_scores([run.records]))}" for run in runs[:4])
        raise UserError(f"these runs have no score in common, so there is nothing to compare ({listed}).")
    groups = grouped(runs)
    criterion = next((name for name in CRITERIA if name in names), None)
    folder = Path(FLAGS.out)
    folder.mkdir(parents=True, exist_ok=True)

    print("\n".join(table(groups, names, criterion)))
    for sentence in [*filter(None, map(unfinished, runs)), *filter(None, map(repeated, groups))]:
        print(sentence)
    report.comparison({group.label: [run.records for run in group.runs] for group in groups}, folder / "compare.png")
    summary = {"best_epoch_by": criterion, "groups": [as_json(group, names, criterion) for group in groups]}
    run_dir.write_json(folder / "compare.json", summary)
    print(f"{counted(len(runs), 'run')} in {counted(len(groups), 'group')}: {folder / 'compare'}.png and .json")


def find_runs(arguments: Sequence[str]) -> list[Run]:
    """Reads the runs of all folders that are given.

    Raises:
      UserError: a folder is none, or none of them has runs; a run was given twice or has no records.
    """
    if not arguments:
        raise UserError("nothing to compare: give the folders of runs, or folders of runs.")
    found: dict[Path, Run] = {}
    inside = [run_folders(Path(argument)) for argument in arguments]
    without = [argument for argument, folders in zip(arguments, inside, strict=True) if not folders]
    if len(without) == len(arguments):
        raise UserError(f"{without[0]} holds no run: neither it nor a folder in it has a config.json.")
    if without:
        print(f"passed over, as they hold no run: {', '.join(without)}")
    for folders in inside:
        for folder in folders:
            if folder.resolve() in found:
                raise UserError(f"{folder} is given twice (as {found[folder.resolve()].folder}): leave one out.")
            run = Run(folder, run_dir.read_config(folder), metrics.read(folder / "metrics.jsonl"))
            if not report.common_scores([run.records]):
                raise UserError(f"{folder} has no records yet: wait for the end of its first epoch, or leave it out.")
            found[folder.resolve()] = run
    return list(found.values())


def run_folders(folder: Path) -> list[Path]:
    """Returns the folder if it is a run's, else those in it that are, `seed2` before `seed10`."""
    if not folder.is_dir():
        raise UserError(f"{folder} is no folder: give the folder of a run, or a folder of runs.")
    if (folder / "config.json").exists():
        return [folder]
    inner = [path.parent for path in folder.glob("*/config.json")]
    return sorted(inner, key=lambda path: [(int(part or 0), text) for part, text in split_numbers(path.name)])


def split_numbers(name: str) -> list[tuple[str, str]]:
    """Splits a name before its numbers: `seed10` into `("", "seed")` and `("10", "")`."""
    return [(number, text) for number, text in re.findall(r"(\d*)(\D*)", name) if number or text]


def grouped(runs: Sequence[Run]) -> list[Group]:
    """Groups runs by their settings, in the order in which they are given."""
    by_settings: dict[str, list[Run]] = {}
    for run in runs:
        by_settings.setdefault(json.dumps(settings(run.config), sort_keys=True), []).append(run)
    found = list(by_settings.values())
    differences = differing([settings(members[0].config) for members in found])
    labels = [", ".join(f"{name}={in_words(value)}" for name, value in each.items()) for each in differences]
    if len(found) == 1:
        config = runs[0].config
        labels = [" on ".join(str(config[name]) for name in ("experiment", "dataset") if name in config) or "all runs"]
    elif len(set(labels)) < len(labels):  # values too long to be told apart
        labels = [f"{number}: {label}" for number, label in enumerate(labels, 1)]
    return [Group(*parts) for parts in zip(found, differences, labels, strict=True)]


def settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what decides the numbers of a run beside its seed, nested names joined by dots."""
    ignored = {"environment", "data_dir", *REPLICATES, *run_dir.MAY_CHANGE}
    found = flat({name: value for name, value in config.items() if name not in ignored})
    # the seed draws who is held out, the fold who is tested: the checksums of the parts differ
    parts = {"train", "validation"} if config.get("validation") else set()
    parts |= {"train", "validation", "test"} if "fold" in config else set()
    return {name: value for name, value in found.items() if name not in {f"data.{part}.crc32" for part in parts}}


def flat(nested: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a nested dict as one of names joined by dots: `{"a": {"b": 1}}` as `{"a.b": 1}`."""
    found: dict[str, Any] = {}
    for name, value in nested.items():
        if isinstance(value, Mapping):
            found |= {f"{name}.{inner}": what for inner, what in flat(value).items()}
        else:
            found[name] = value
    return found


def differing(all_settings: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Returns for each of several settings the entries in which they are not all the same.

    Those that follow from others are left out where the rest tells all apart.
    """
    names = dict.fromkeys(name for each in all_settings for name in each)
    varying = [name for name in names if any(each.get(name, ABSENT) != all_settings[0].get(name, ABSENT)
                                             for each in all_settings)]  # fmt: skip
    causes = [name for name in varying if name.split(".")[0] not in CONSEQUENCES]
    for chosen in (causes, varying):
        found = [{name: each.get(name, ABSENT) for name in chosen} for each in all_settings]
        if len({json.dumps(each, sort_keys=True) for each in found}) == len(found):
            break
    return found


def in_words(value: object) -> str:
    """Writes a setting: numbers as short as they are, other things cut off where they are long."""
    text = f"{value:g}" if isinstance(value, float) else value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= LONGEST_VALUE else f"{text[: LONGEST_VALUE - 3]}..."


def last_value(run: Run, name: str) -> float:
    """Returns the last value that a run has of a score."""
    return next(record[name] for record in reversed(run.records) if name in record)


def last_epoch(run: Run) -> int:
    """Returns the epoch of a run's last scores."""
    names = report.common_scores([run.records])
    return max(record["epoch"] for record in run.records if any(name in record for name in names))


def best_epoch(run: Run, criterion: str) -> int | None:
    """Returns the epoch of the lowest value of a score; None if none is a number."""
    scored = [record for record in run.records if math.isfinite(record.get(criterion, math.nan))]
    return min(scored, key=lambda record: record[criterion])["epoch"] if scored else None


def table(groups: Sequence[Group], names: Sequence[str], criterion: str | None) -> list[str]:
    """Returns the lines of the table: a row per group, its label at the end."""
    rows = [["runs", "last epoch", *(["best epoch"] if criterion else []), *names, "settings"]]
    for group in groups:
        scores = [report.score_text(name, [last_value(run, name) for run in group.runs]) for name in names]
        epochs = [span([last_epoch(run) for run in group.runs])]
        if criterion:
            epochs.append(span([best_epoch(run, criterion) for run in group.runs]))
        rows.append([str(len(group.runs)), *epochs, *scores, group.label])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join([*(f"{cell:>{width}}" for cell, width in zip(row[:-1], widths, strict=False)), row[-1]])
             for row in rows]  # fmt: skip
    note = f"best epoch: of the lowest {criterion}; scores: at the end of each run"
    return [*lines, note if criterion else "scores: at the end of each run"]


def span(numbers: Sequence[int | None]) -> str:
    """Writes the least and the largest of some numbers as `8-10`, or the one that all are."""
    known = sorted({number for number in numbers if number is not None})
    return "-".join(map(str, [known[0], *known[1:][-1:]])) if known else "none"


def unfinished(run: Run) -> str | None:
    """Returns a sentence if a run has not reached its last epoch; with patience it may have stopped for good."""
    done, wanted = last_epoch(run), run.config.get("epochs")
    if not isinstance(wanted, int) or done >= wanted or run.config.get("patience"):
        return None
    return f"{run.folder} is not at its end: epoch {done} of {wanted}"


def repeated(group: Group) -> str | None:
    """Returns a sentence if runs of a group have the same seed: they are one sample, and narrow the deviation."""
    drawn = [tuple(run.config.get(name) for name in sorted(REPLICATES)) for run in group.runs]
    twice = [run.folder for run, one in zip(group.runs, drawn, strict=True) if drawn.count(one) > 1]
    return f"the same run by settings and seed: {', '.join(map(str, twice))}" if twice else None


def as_json(group: Group, names: Sequence[str], criterion: str | None) -> dict[str, Any]:
    """Returns what compare.json says of a group; null stands for what is no finite number."""
    values = {name: [last_value(run, name) for run in group.runs] for name in names}
    return {
        "label": group.label,
        "settings": group.differences,
        "runs": [str(run.folder) for run in group.runs],
        "last_epochs": [last_epoch(run) for run in group.runs],
        "best_epochs": [best_epoch(run, criterion) for run in group.runs] if criterion else None,
        "scores": {
            name: {
                "mean": finite(report.mean_and_deviation(of_name)[0]),
                "deviation": finite(report.mean_and_deviation(of_name)[1]),
                "values": [finite(value) for value in of_name],
            }
            for name, of_name in values.items()
        },
    }


def finite(value: float | None) -> float | None:
    """Returns the value, or None if it is not finite: JSON has no NaN."""
    return value if value is not None and math.isfinite(value) else None


if __name__ == "__main__":
    process.run(main)
