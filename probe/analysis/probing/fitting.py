"""One head's probe: cross-validated predictions of logistic or ridge regression on its outputs."""

import warnings
from dataclasses import dataclass

import numpy as np

from probe.analysis.probing.examples import Examples
from probe.analysis.probing.options import HeadProbeOptions
from probe.errors import InputError

Fold = tuple[np.ndarray, np.ndarray]  # numbers of the examples to fit on, and of those to predict
FLAT = 1e-4  # z comes from float32 (or narrower) sums: what is flatter than this is their rounding
_STEPS = 1000


@dataclass
class Fitted:
    """Predictions of every example by a probe that did not see it, and how many fits stopped early."""

    predicted: np.ndarray
    unfinished: int = 0


def folds_of(examples: Examples, options: HeadProbeOptions) -> list[Fold]:
    """Folds that keep a prompt's tokens together, and classes in proportion; the same for the task and its control.

    Raises:
        InputError: a class with fewer examples (prompts) than folds.
    """
    # Here and below, not above: scikit-learn takes a second to import, and this module comes with the verbs.
    from sklearn.model_selection import GroupKFold, KFold, StratifiedGroupKFold, StratifiedKFold

    together = len(set(examples.prompt.tolist())) < len(examples)
    prompts = len(set(examples.prompt.tolist()))
    if prompts < options.folds:
        raise InputError(f"{prompts} prompts were given for {options.folds} folds; give more, or fewer folds")
    for number, name in enumerate(examples.classes):
        found = len(set(examples.prompt[examples.wanted == number].tolist()))
        if found < options.folds:
            raise InputError(
                f"the label {name!r} stands in {found} prompts; {options.folds} folds need as many: give more, or "
                "use fewer folds"
            )
    how = {"n_splits": options.folds, "shuffle": True, "random_state": options.seed}
    if examples.classes:
        splitter = StratifiedGroupKFold(**how) if together else StratifiedKFold(**how)
    else:
        splitter = GroupKFold(**how) if together else KFold(**how)
    groups = examples.prompt if together else None
    return list(splitter.split(examples.wanted, examples.wanted, groups))


def predictions(
    outputs: np.ndarray, wanted: np.ndarray, folds: list[Fold], penalty: float, *, classes: bool
) -> Fitted:
    """Out-of-fold predictions from ``outputs[example, d_head]``, each feature brought to mean 0 and deviation 1.

    Features that vary less than `FLAT` of the one that varies most are scaled by that floor: they are rounding.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression, Ridge

    found = Fitted(np.zeros_like(wanted))
    for train, test in folds:
        seen, unseen = _standard(outputs[train], outputs[test])
        if not classes:
            found.predicted[test] = Ridge(alpha=penalty).fit(seen, wanted[train]).predict(unseen)
        elif len(np.unique(wanted[train])) == 1:  # a control task may leave a fold with one label
            found.predicted[test] = wanted[train][0]
        else:
            probe = LogisticRegression(C=1.0 / penalty, max_iter=_STEPS)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ConvergenceWarning)  # counted instead
                probe.fit(seen, wanted[train])
            found.unfinished += int(probe.n_iter_.max() >= _STEPS)
            found.predicted[test] = probe.predict(unseen)
    return found


def _standard(seen: np.ndarray, unseen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    mean, deviation = seen.mean(0), seen.std(0)
    scale = np.maximum(deviation, max(FLAT * float(deviation.max()), np.finfo(np.float64).tiny))
    return (seen - mean) / scale, (unseen - mean) / scale


def control_of(examples: Examples, options: HeadProbeOptions) -> np.ndarray | None:
    """What the control task asks: a random label (target) per type, None where there is one type alone.

    Types in random order take the sorted labels one after another, each as many as it has examples: labels occur
    nearly as often as the real ones even where types are few (independent draws would often leave one label).
    """
    random = np.random.default_rng(options.seed)
    if options.control == "shuffle":
        return random.permutation(examples.wanted)
    kinds = np.unique(examples.types)
    if len(kinds) < 2:
        return None
    order = random.permutation(kinds)
    counts = np.array([(examples.types == kind).sum() for kind in order])
    middles = np.cumsum(counts) - counts / 2
    labels = np.sort(examples.wanted)[middles.astype(np.int64)]
    drawn = dict(zip(order.tolist(), labels, strict=True))
    return np.array([drawn[kind] for kind in examples.types.tolist()], dtype=examples.wanted.dtype)
