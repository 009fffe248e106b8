"""The pictures of a run, of several, and of a plan, as PNG files.

They are drawn without matplotlib's global state and without a window.
"""

from cnnjax.report.classification import confusion, confusion_matrix, mistakes, predictions
from cnnjax.report.comparison import common_scores, comparison, mean_and_deviation, mean_curve, score_text
from cnnjax.report.feature_maps import clip, maps, receptive_fields
from cnnjax.report.filters import kernels, learned_filter, learned_kernel
from cnnjax.report.plan import PlannedLayer, PlannedStep, plan
from cnnjax.report.training import Record, by_epoch, curves, finite_length, learning_rates, quantities, running_mean

__all__ = [
    "PlannedLayer",
    "PlannedStep",
    "Record",
    "by_epoch",
    "clip",
    "common_scores",
    "comparison",
    "confusion",
    "confusion_matrix",
    "curves",
    "finite_length",
    "kernels",
    "learned_filter",
    "learned_kernel",
    "learning_rates",
    "maps",
    "mean_and_deviation",
    "mean_curve",
    "mistakes",
    "plan",
    "predictions",
    "quantities",
    "receptive_fields",
    "running_mean",
    "score_text",
]
