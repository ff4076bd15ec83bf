"""Path patching: how much of the difference between two runs goes from one head to chosen receivers."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr

from probe.circuits.paths import JOINT, Paths, heads_of, mlps_of, path_effects
from probe.circuits.receivers import Receiver, receivers_of, serving_notes
from probe.circuits.reporting import Told, make_report
from probe.circuits.study import CircuitOptions, Pairs, study
from probe.circuits.tables import Effects
from probe.circuits.where import Where
from probe.report import Report
from probe.report.ranking import cells, head_name

PAPER = "Wang et al. 2023 (arXiv:2211.00593); Merullo et al. 2024 (arXiv:2310.08744)"
BIBTEX = """@inproceedings{wang2023interpretability,
  title={Interpretability in the Wild: a Circuit for Indirect Object Identification in {GPT-2} Small},
  author={Wang, Kevin Ro and Variengien, Alexandre and Conmy, Arthur and Shlegeris, Buck and Steinhardt, Jacob},
  booktitle={International Conference on Learning Representations},
  year={2023}
}"""


def path_patching(
    model: object,
    pairs: Pairs = "ioi",
    receivers: str | Sequence[str] = "logits",
    *,
    senders: Sequence[str] | None = None,
    at: str = "end",
    mlps: str = "free",
    options: CircuitOptions | None = None,
    **changes: Any,
) -> Report:
    """How much of the corruption goes from each sender head to the receivers, all other heads held as in the clean run.

    ``effect = (m_patched - m_clean) / (m_corrupt - m_clean)``, means over pairs above and below: 0 where nothing goes
    that way, 1 where all does; below 0 where the sender works against the answer (negative movers). Only the sender's
    z comes from the corrupt run; what it changes reaches the receivers through the stream and, with ``mlps='free'``,
    through MLPs, but through no other head.

    Args:
        model: A known name, path or hub id; a `LoadedModel`; or ``(model, tokenizer)``. A decoder.
        pairs: A task (``probe.prompts.pairs.PAIR_TASKS``), or pairs.
        receivers: ``logits``, or heads' queries, keys or values (``L10.H2.q``); several are patched one by one and
            together. Keys and values are those of the key/value head that serves the named head.
        senders: Heads (``L3.H1``); None = every head before the last receiver.
        at: Where the senders' z is exchanged: ``end``, another mark, ``all`` at once; ``marks`` or ``tokens`` one after
            another.
        mlps: ``free``: MLPs answer to what they get, as in the code of Wang et al.; ``frozen``: they are held as in the
            clean run too, so that only direct paths count.
        options: How to look; see `CircuitOptions`.
        **changes: Single options by name (``count=32``, ``measure="kl"``).

    Returns:
        A report with one answer, ``path_patching:receivers=…``; its map is per sender head (of several receivers: all
        together). ``extra`` holds ``by_receiver`` (receiver, layer, head; NaN where no path leads) and ``edges`` (one
        effect per edge, with coordinates ``sender`` and ``receiver``); with places told apart ``by_position``.

    Raises:
        UsageError: an unknown receiver or place, no sender before a receiver, a model that does not solve the task.
        UnknownNameError: a head that the model lacks.
        InputError: pairs that do not fit the model, or a measure that is the same on both sides.
    """
    asked = CircuitOptions.of(options, changes)
    kept = mlps_of(mlps)
    with study(model, pairs, asked) as case:
        heads = heads_of(case)
        ends = receivers_of(receivers, heads)
        sending = heads.all() if senders is None else heads.by_layer(senders)
        paths = Paths(ends, sending, Where.of(at, case.pairs), kept)
        found = path_effects(case, paths)
        whole = found.get(JOINT, found[ends[0].name]) if len(ends) > 1 else found[ends[0].name]
        told = Told(
            f"path_patching:receivers={'+'.join(one.name for one in ends)},at={at},mlps={mlps}",
            f"Share of the {asked.measure} difference that goes from a head to {_said(ends)}, others frozen; 1 is all",
            "share of the difference", PAPER, BIBTEX,
        )  # fmt: skip
        single = {one.name: found[one.name] for one in ends if one.name in found}
        answer = told.answer(whole.map, whole.by_prompt, {**whole.extra, **path_graph(single, whole.map)})
        settings = {"method": "path", "receivers": [one.name for one in ends], "at": at, "mlps": mlps}
        return make_report(case, [answer], settings, serving_notes(ends, heads))


def path_graph(found: Mapping[str, Effects], like: xr.DataArray) -> dict[str, xr.DataArray]:
    """The effects of several receivers on the axes of one map, and as a list of edges."""
    maps = {name: one.map.reindex_like(like) for name, one in found.items()}
    receivers = list(maps)
    stacked = xr.DataArray(
        np.stack([one.values for one in maps.values()]),
        dims=("receiver", "layer", "head"),
        coords={"receiver": receivers, "layer": like.coords["layer"], "head": like.coords["head"]},
    )
    edges = [
        (head_name("decoder", layer, head), name, value)
        for name, one in maps.items()
        for layer, head, value in cells(one)
        if not np.isnan(value)
    ]
    senders, ends, effects = zip(*edges, strict=True) if edges else ((), (), ())
    listed = xr.DataArray(
        np.array(effects, dtype=float),
        dims=("edge",),
        coords={"sender": ("edge", list(senders)), "receiver": ("edge", list(ends))},
    )
    return {"by_receiver": stacked, "edges": listed}


def _said(ends: Sequence[Receiver]) -> str:
    return "the logits" if ends[0].kind == "logits" else ", ".join(one.name for one in ends)
