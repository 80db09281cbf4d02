"""All figures, in one style (see `style`): each function draws one from the data that is stored beside it."""

from keymyna_lib.report.figures.changes import robustness, tsne
from keymyna_lib.report.figures.compared import (
    circle_of_fifths,
    claims,
    cost_curve,
    designs,
    differences,
    scopes,
    systems,
    transfer,
)
from keymyna_lib.report.figures.corpora import key_histogram, label_audit, source_histograms, spectrograms
from keymyna_lib.report.figures.heads import confusion, head_curves, label_curves, mlp_grid, probe_selection
from keymyna_lib.report.figures.method import framework, pretraining_curves
from keymyna_lib.report.figures.speed import growth_lines, speed_ratios, step_shares
from keymyna_lib.report.figures.style import use_style

__all__ = [
    "circle_of_fifths",
    "claims",
    "confusion",
    "cost_curve",
    "designs",
    "differences",
    "framework",
    "growth_lines",
    "head_curves",
    "key_histogram",
    "label_audit",
    "label_curves",
    "mlp_grid",
    "pretraining_curves",
    "probe_selection",
    "robustness",
    "scopes",
    "source_histograms",
    "spectrograms",
    "speed_ratios",
    "step_shares",
    "systems",
    "transfer",
    "tsne",
    "use_style",
]
