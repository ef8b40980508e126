"""Linear probes: ridge regression from one-hot codes, judged on logs it was not fitted on."""

from __future__ import annotations

import numpy as np

from latentvla_core.types import Array

FOLDS = 5


def one_hot(codes: Array, size: int) -> Array:
    """(n, N) codes → (n, N · size) float64; (n, N, d) continuous "codes" are read as they are, (n,
    N · d).
    """
    if codes.ndim == 3:
        return codes.reshape(len(codes), -1).astype(np.float64)
    return np.eye(size)[codes].reshape(len(codes), -1)


def folds_of(logs: Array, folds: int = FOLDS) -> Array:
    """(n,) fold number; whole logs stay together (fewer folds if there are fewer), a single log is
    cut into stretches of time.
    """
    names, number = np.unique(logs, return_inverse=True)
    if len(names) > 1:  # in random order: kinds of drives may follow each other in a cycle
        return (np.random.default_rng(0).permutation(len(names)) % folds)[number]
    return np.arange(len(logs)) * folds // max(len(logs), 1)


def ridge(inputs: Array, targets: Array, penalty: float = 1.0) -> Array:
    """(inputs + 1, targets) weights, the last row being the intercept, which is not penalised."""
    mean_x, mean_y = inputs.mean(0), targets.mean(0)
    x, y = inputs - mean_x, targets - mean_y
    weights = np.linalg.solve(x.T @ x + penalty * np.eye(x.shape[1]), x.T @ y)
    return np.concatenate([weights, (mean_y - mean_x @ weights)[None]])


def predict(weights: Array, inputs: Array) -> Array:
    return inputs @ weights[:-1] + weights[-1]


def cross_predict(
    inputs: Array,
    targets: Array,
    folds: Array,
    asked: Array | None = None,
    asked_folds: Array | None = None,
) -> Array:
    """(n, targets) predictions for `asked` (default: the inputs), each by a probe fitted on the
    folds other than its own.
    """
    asked, asked_folds = (
        inputs if asked is None else asked,
        folds if asked_folds is None else asked_folds,
    )
    out = np.zeros((len(asked), targets.shape[1]))
    for fold in np.unique(folds):
        rest, held = folds != fold, asked_folds == fold
        out[held] = predict(ridge(inputs[rest], targets[rest].astype(np.float64)), asked[held])
    return out


def r_squared(targets: Array, predictions: Array) -> Array:
    """(targets,) 1 − residual / total variance; NaN where the target does not vary."""
    total = np.square(targets - targets.mean(0)).sum(0)
    residual = np.square(targets - predictions).sum(0)
    return np.where(total > 1e-9, 1 - residual / np.maximum(total, 1e-12), np.nan)
