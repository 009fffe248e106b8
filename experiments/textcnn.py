"""Kim's TextCNN on the sentences of the movie reviews (MR), by 10-fold cross-validation.

  python experiments/textcnn.py --data_dir=rt-polaritydata --workdir=runs/textcnn
  python experiments/textcnn.py --data_dir=rt-polaritydata --workdir=runs/textcnn --fold=3
  python experiments/textcnn.py --data_dir=rt-polaritydata --embeddings=GoogleNews-vectors-negative300.bin
  python experiments/textcnn.py --data_dir=rt-polaritydata --embeddings=glove.6B.300d.txt --form=multichannel

The folder of --data_dir holds rt-polarity.neg and rt-polarity.pos. Each fold is a run of its own in WORKDIR/fold0 to
WORKDIR/fold9: --fold=K trains one of them, the default all in turn, and a run that is there already is not made
again. With the last one the mean over the ten is printed beside that of the paper.

Flags that are not given come from the recipe of the paper and its code: 25 epochs, batch_size 50, adadelta,
learning_rate 1, constant, a tenth of the nine training folds held out for validation (--validation). A fold's result is
the test accuracy at the epoch with the best validation accuracy, the last of these where there are more.

Without --embeddings the vectors of the words start from random numbers and are trained (CNN-rand, in the paper 76.1 %).
A file of word2vec (text or binary) or GloVe gives them in the forms static (81.0 %), non-static (81.5 %) and
multichannel (81.1 %); words that it lacks keep random ones.

What to expect, jax 0.10.2: an update of CNN-rand takes 50 ms on 2 CPU cores, a fold has 4,300. The ten folds gave
75.35, 76.01, 76.08, 77.77, 76.27, 75.80, 75.98, 74.95, 78.24 and 75.42 %, 76.2 % +- 1.0 (4 to 9 minutes each beside
other work).
"""

from __future__ import annotations

if __name__ == "__main__":  # before the imports, which take seconds
    from cnnjax.app import garbage, interruptions

    interruptions.install()
    garbage.pause()

import dataclasses
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import optax
from absl import flags

from cnnjax import data, describe, models, report, train
from cnnjax.app import deterministic, process, settings
from cnnjax.app import flags as shared
from cnnjax.app.console import Console
from cnnjax.app.summary import print_header, print_scores
from cnnjax.data.sentences import FOLDS
from cnnjax.errors import UserError
from cnnjax.models.textcnn import FORMS, TextCNN
from cnnjax.train import devices, run_dir
from cnnjax.train.options import OF_THE_OPTIMIZER
from cnnjax.train.task import named_optimizer

FLAGS = flags.FLAGS
shared.define_run_flags()
flags.DEFINE_string("data_dir", None, "the folder of rt-polarity.neg and rt-polarity.pos")
flags.DEFINE_enum("fold", "all", [*map(str, range(FOLDS)), "all"], "which tenth of the sentences to test on")
flags.DEFINE_string("embeddings", None, "a file of word vectors: word2vec's, text or binary, or GloVe's")
flags.DEFINE_enum("form", None, FORMS, "rand, or what becomes of the vectors of --embeddings; by default non-static")
flags.DEFINE_integer("width", 300, "rand: of the vectors", lower_bound=1)
flags.DEFINE_integer("maps", 100, "filters of each width", lower_bound=1)
shared.define_float("max_norm", "largest norm of the weights that lead to one class", 3.0, above=0)

RECIPE: dict[str, Any] = {
    "epochs": 25,
    "batch_size": 50,
    "learning_rate": 1.0,
    "optimizer": "adadelta",
    "schedule": "constant",
}
PUBLISHED = {"rand": 76.1, "static": 81.0, "non-static": 81.5, "multichannel": 81.1}  # per cent, with word2vec's

Vectors = tuple[np.ndarray, np.ndarray]  # ids (M,), and their vectors (M, width)


def main(arguments: list[str]) -> None:
    """Trains each fold, resumes and reports."""
    settings.no_arguments(arguments)
    if FLAGS.optimizer == "sdlm":
        raise UserError("--optimizer=sdlm is for the net of 1998: choose another optimizer.")
    if FLAGS.freeze is not None:
        raise UserError("--freeze has no use here, as the output layer's weights are bounded; see --form=static.")
    form = chosen_form()
    reviews = data.movie_reviews(FLAGS.data_dir)
    vectors = read_vectors(reviews.words) if FLAGS.embeddings else None
    numbers = range(FOLDS) if FLAGS.fold == "all" else [int(FLAGS.fold)]
    folds = {number: data.fold(reviews, number, FLAGS.seed) for number in numbers}
    tenths = {number: len(fold.train_labels) // 10 for number, fold in folds.items()}
    options = {number: settings.options({**RECIPE, "validation": tenths[number]}) for number in numbers}
    folder = Path(FLAGS.workdir) if FLAGS.workdir else run_dir.dated(Path("runs"), "textcnn")
    deterministic.keep_compiled_in(folder)
    accuracies = []
    for number in numbers:
        result = run(folder / f"fold{number}", reviews, folds[number], number, form, vectors, options[number])
        if not result.finished:
            step = int(result.state.step)
            print(f"stopped after update {step}, saved. Go on with: {settings.command_to_go_on(folder)}")
            return
        accuracies.append(chosen_accuracy(result.records))
        print(f"fold {number}: {accuracies[-1]:.2%} at the epoch chosen by validation\n")
    if len(accuracies) == FOLDS:
        print(summary(form, accuracies))
    else:
        print(f"for the mean over the folds: --fold=all --workdir={folder}")


def chosen_form() -> str:
    """Returns the form that `--form` and `--embeddings` ask for."""
    form = FLAGS.form or ("non-static" if FLAGS.embeddings else "rand")
    if form != "rand" and not FLAGS.embeddings:
        raise UserError(f"--form={form} needs the vectors of the words: give --embeddings=FILE.")
    if form == "rand" and FLAGS.embeddings:
        raise UserError("--embeddings has no use with --form=rand: leave one of the two out.")
    if FLAGS.embeddings and FLAGS["width"].present:
        raise UserError("--width is that of the vectors of --embeddings: leave it out.")
    return form


def read_vectors(words: Sequence[str]) -> Vectors:
    """Returns the ids of the words for which `--embeddings` has vectors, and the vectors."""
    found, vectors = data.word_vectors(FLAGS.embeddings, words)
    print(f"{FLAGS.embeddings}: vectors of {vectors.shape[1]} numbers for {len(found):,} of {len(words):,} words")
    return found + 1, vectors


def run(
    folder: Path,
    reviews: data.Corpus,
    fold: data.Dataset,
    number: int,
    form: str,
    vectors: Vectors | None,
    options: train.Options,
) -> train.Result:
    """Trains and scores one fold in its folder."""
    training = train.Examples(fold.train_images, fold.train_labels)
    test = train.Examples(fold.test_images, fold.test_labels)
    try:
        chosen, _ = named_optimizer(options, len(training) - options.validation)
    except ValueError as error:
        raise UserError(f"{error}.") from error
    with run_dir.claim(folder):
        config = configuration(reviews, number, form, vectors, options)
        net = models.build(config)
        assert isinstance(net, TextCNN)
        if vectors is not None:
            net.set_vectors(*vectors)
        print_header(folder, config, {"train": len(training), "test": len(test)}, options)
        describe(net, reviews.ids.shape[1:], dtype="int32")
        result = train.fit(
            net,
            {"train": training, "test": test},
            folder,
            optimizer=optax.chain(chosen, train.max_norm("dense/kernel", FLAGS.max_norm)),
            config=config,
            watch=Console(),
            **{name: value for name, value in dataclasses.asdict(options).items() if name not in OF_THE_OPTIMIZER},
        )
        if result.finished and devices.is_main():
            report.curves(result.records, folder / "curves.png", augmented=False)
            predicted = result.outputs.argmax(-1)
            report.confusion(fold.test_labels, predicted, fold.class_names, folder / "confusion.png")
            train.add_pictures(folder, int(result.state.step), ["curves", "confusion"])
            print_scores(result, len(test))
        return result


def configuration(
    reviews: data.Corpus, number: int, form: str, vectors: Vectors | None, options: train.Options
) -> dict[str, Any]:
    """Returns what `config.json` and each checkpoint hold.

    That is what decides the numbers, and what users of the net need.
    """
    width = FLAGS.width if vectors is None else vectors[1].shape[1]
    model = {"name": "textcnn", "num_classes": len(reviews.class_names), "vocabulary": len(reviews.words)}
    return {
        "experiment": "textcnn",
        "dataset": "MR",
        "data_dir": FLAGS.data_dir,
        "class_names": list(reviews.class_names),
        "fold": number,
        "model": {**model, "width": width, "form": form, "maps": FLAGS.maps},
        "embeddings_crc32": None if vectors is None else crc32(*vectors),
        "max_norm": FLAGS.max_norm,
        "dtype": FLAGS.dtype,
        "deterministic": FLAGS.deterministic,
        "seed": options.seed,
        "of_the_optimizer": {name: getattr(options, name) for name in OF_THE_OPTIMIZER},
    }


def crc32(*arrays: np.ndarray) -> int:
    """Returns a checksum over the bytes of all arrays."""
    checksum = 0
    for array in arrays:
        checksum = zlib.crc32(array.tobytes(), checksum)
    return checksum


def chosen_accuracy(records: Sequence[report.Record]) -> float:
    """Returns the test accuracy at the best validation accuracy.

    Of equally good epochs the last counts; without validation the last epoch does.
    """
    tested = [record for record in records if "test_accuracy" in record]
    return max(reversed(tested), key=lambda record: record.get("validation_accuracy", 0))["test_accuracy"]


def summary(form: str, accuracies: Sequence[float]) -> str:
    """Returns a sentence with the mean over the folds and the published one."""
    mean, deviation = 100 * np.mean(accuracies), 100 * np.std(accuracies, ddof=1)
    return (
        f"CNN-{form}, mean over {len(accuracies)} folds: {mean:.1f} % ± {deviation:.1f} (Kim 2014: {PUBLISHED[form]} %)"
    )


if __name__ == "__main__":
    process.run(main)
