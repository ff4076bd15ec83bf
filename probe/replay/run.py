"""``probe.replay.replay``: claims measured on real weights, one model after another, and their pages written."""

import hashlib
import inspect
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from probe.analysis.settle import settled
from probe.errors import UsageError
from probe.models import LoadedModel, load
from probe.readouts.evaluating import evaluating
from probe.replay import heads, intervals, needles, ordinary, reading
from probe.replay.claim import Claim, Claims
from probe.replay.files import default_folder, result_path, scores_path, unfinished_path
from probe.replay.kept import Kept
from probe.replay.pages import write_pages
from probe.replay.stored import Stored, stored_in
from probe.replay.table import CLAIMS
from probe.replay.work import Work

TOOLS = (heads, intervals, needles, ordinary, reading)


@dataclass(frozen=True)
class ReplayOptions:
    """How claims are replayed.

    Args:
        seed: Of everything random.
        out: Folder of results and pages; None: `default_folder`, or nowhere for a smoke check.
        small: A smoke check of a few prompts; never written among real results.
        kept: Take up the numbers of a stored result with the same seed and settings, and only tell them anew.
        claims: The table of claims.
        tell: Is told what is measured now.
    """

    seed: int = 0
    out: Path | None = None
    small: bool = False
    kept: bool = False
    claims: Claims = field(default_factory=lambda: CLAIMS)
    tell: Callable[[str], None] = lambda _what: None


def replay(
    names: str | Sequence[str],
    models: Sequence[object] = (),
    options: ReplayOptions | None = None,
    **changes: Any,
) -> list[Stored]:
    """Measure claims on models, store what they gave, and write their pages.

    A run that is stopped goes on where it was when it is asked for again.

    Args:
        names: Claims, as ``probe replay --list`` names them.
        models: Known names, hub ids, paths or `LoadedModel`s; none: those that each claim is listed for.
        options: How; see `ReplayOptions`.
        **changes: Single options by name (``small=True``), over those of `options`.

    Returns:
        One result per claim and model.

    Raises:
        UnknownNameError: a claim that does not exist; nothing was run.
        UsageError: a smoke check was asked into a folder of real results.
        OutputError: a folder that cannot be written.
    """
    asked = ReplayOptions(**{**(options.__dict__ if options else {}), **changes})
    wanted = [names] if isinstance(names, str) else list(names)
    for name in wanted:  # all of them before the first is measured: a wrong name or a broken one runs nothing
        asked.claims.load(name)
    if asked.out is None and asked.small:
        with TemporaryDirectory() as scratch:
            return _all(wanted, models, asked, Path(scratch))
    folder = asked.out if asked.out is not None else default_folder()
    _require_alike(asked, folder)
    return _all(wanted, models, asked, folder)


def _require_alike(asked: ReplayOptions, folder: Path) -> None:
    stored = (one for name in asked.claims for one in stored_in(folder, name))
    other = next((one for one in stored if one.small != asked.small), None)
    if other is not None or (asked.small and folder.resolve() == default_folder().resolve()):
        kinds = ("a smoke check", "real results") if asked.small else ("a real run", "smoke checks")
        raise UsageError(
            f"{kinds[0]} was asked into {folder}, a folder of {kinds[1]}: name another with --out"
        )


def _all(names: Sequence[str], models: Sequence[object], asked: ReplayOptions, folder: Path) -> list[Stored]:
    """Every asked claim on every model, one model loaded at a time."""
    listed = dict.fromkeys(model for name in names for model in asked.claims[name].models)
    found = []
    for model in models or listed:
        mine = [name for name in names if models or model in asked.claims[name].models]
        loaded = model if isinstance(model, LoadedModel) else load(model, dtype="float32")
        for name in mine:
            found.append(_one(name, loaded, asked, folder))
            write_pages(asked.claims, folder, [name])
    return found


def _one(name: str, loaded: LoadedModel, asked: ReplayOptions, folder: Path) -> Stored:
    claim = asked.claims.load(name)
    about = {
        "claim": name,
        "model": loaded.name,
        "sha256": loaded.source.sha256,
        "seed": asked.seed,
        "small": asked.small,
        "settings": json.loads(json.dumps(dict(claim.settings))),
    }
    before = _same(about, folder) if asked.kept else None
    kept = Kept(
        unfinished_path(folder, name, loaded.name),
        {**about, "code": _digest(claim)},
        None if before is None else before.measured,
    )
    tell = asked.tell
    work = Work(
        loaded,
        kept,
        shared=_shared(loaded, asked, folder),
        seed=asked.seed,
        small=asked.small,
        tell=lambda what: tell(f"{name} on {loaded.name}: {what}"),
    )
    with settled(asked.seed, deterministic=False, device=loaded.device), evaluating(loaded.model):
        finding = claim.measure(work)
    result = Stored(**about, finding=finding, measured=kept.values)
    if before is not None and not kept.measured:
        result = replace(result, machine=before.machine)
    result.write(folder)
    kept.drop()
    return result


def _same(about: dict[str, Any], folder: Path) -> Stored | None:
    """The stored result that was measured with the same settings, if there is one."""
    path = result_path(folder, about["claim"], about["model"])
    if not path.is_file():
        return None
    stored = Stored.read(path)
    same = all(getattr(stored, name) == value for name, value in about.items())
    return stored if same else None


def _shared(loaded: LoadedModel, asked: ReplayOptions, folder: Path) -> Kept:
    """Head scores of the model; a smoke check takes those of the real results, so that it is quick."""
    about = {"model": loaded.name, "sha256": loaded.source.sha256}
    real = scores_path(default_folder(), loaded.name)
    known = Kept(real, about).values if asked.small and real.is_file() else {}
    return Kept(scores_path(folder, loaded.name), about, known)


def _digest(claim: Claim) -> str:
    """Of the code that measures: what it gave before it was changed is not taken up by a run that goes on."""
    total = hashlib.sha256()
    for module in (sys.modules[claim.measure.__module__], *TOOLS):
        total.update(inspect.getsource(module).encode())
    return total.hexdigest()[:16]
