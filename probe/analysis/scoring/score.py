"""``probe.score``: how much worse each document is predicted without some heads."""

from collections.abc import Callable, Generator, Iterable
from contextlib import closing
from dataclasses import replace
from time import monotonic
from typing import Any

from probe.analysis.scoring.documents import Document, in_shards
from probe.analysis.scoring.masking import make_mask
from probe.analysis.scoring.options import ScoreOptions
from probe.analysis.scoring.plan import Plan, prepare
from probe.analysis.scoring.ray_pool import WorkerSpec, scored_by_workers
from probe.analysis.scoring.retrieval_heads import ChosenHeads, retrieval_heads
from probe.analysis.scoring.scorer import Scorer, ShardScores
from probe.analysis.scoring.shards import ShardStore
from probe.analysis.scoring.summary import Scores, tally
from probe.errors import InputError
from probe.models import LoadedModel
from probe.readouts.evaluating import evaluating
from probe.report.provenance import Provenance, utc_now


def score(
    model: object,
    data: object,
    how: object = "uniform_past",
    heads: object = None,
    *,
    options: ScoreOptions | None = None,
    **changes: Any,
) -> Scores:
    """Score documents by how much masking heads hurts the prediction of their tokens (AttentionInfluence).

    ``influence = (L_masked − L_base) / L_base`` with L the mean cross-entropy of a document's tokens, in nats. Compare
    it within one kind of text only. Documents are read as a stream and scored in shards; ``scores/part-*.parquet`` has
    a row for each. AttentionInfluence (arXiv:2505.07293) masks the top 5 % of retrieval heads by uniform attention.

    Args:
        model: A known name, path or hub id; a `LoadedModel`; or ``(model, tokenizer)``. A decoder. Several workers
            need a name or a path.
        data: A ``.jsonl`` or ``.parquet`` file with a column ``text``, and maybe ``id``.
        how: What masks the heads: a spec (``"uniform_past"``, ``"zero"``) or an intervention.
        heads: The heads, such as ``["L18.H6"]``; None: the best `share` of all heads by their retrieval score, found
            first, unless `how` names its own.
        options: How to run it.
        **changes: Single options by name (``out="run"``, ``workers=2``), over those of `options`.

    Returns:
        The summary; ``.to_frame()`` reads all scores.

    Raises:
        UsageError: the call was wrong; nothing was scored.
        InterventionError: the intervention cannot act on this model, or changed nothing.
        WorkerError: a worker died; finished shards are kept.
        BudgetError: memory ran out, naming the size.
    """
    asked = ScoreOptions.of(options, changes)
    plan, loaded = prepare(model, data, how, heads, asked)
    store = ShardStore(asked.folder, plan.fingerprint(), plan.n_shards)
    try:
        chosen = _heads(plan, loaded, store)
        mask = make_mask(how, chosen.heads or None)
        if asked.distributed:
            device = loaded.device.type
            del loaded  # every worker holds its own
            spec = WorkerSpec.of(str(model), mask, replace(asked, progress=None), plan.subject.digest, device)
            speed = _keep(plan, store, lambda shards: scored_by_workers(spec, shards))
        else:
            scorer = Scorer(loaded, mask, asked)
            speed = _keep(plan, store, lambda shards: _scored_here(plan, store, scorer, shards))
        found = _summary(plan, store, chosen, (mask.name, speed))
    except BaseException:
        store.abandon()
        raise
    store.finish()
    return found


def _heads(plan: Plan, loaded: LoadedModel, store: ShardStore) -> ChosenHeads:
    """The heads that were named, or that are found now, or were before an interruption."""
    if not plan.finds_heads:
        return ChosenHeads(plan.heads or (), ())
    kept = store.heads()
    if kept is None:
        with evaluating(loaded.model):
            asked = plan.options
            kept = retrieval_heads(loaded, asked.share, asked.seed, asked.detect, asked.progress)
        store.keep_heads(kept)
    return kept


Shards = Iterable[tuple[int, list[Document]]]
Found = Generator[tuple[int, ShardScores], None, None]
Run = Callable[[Shards], Found]


def _keep(plan: Plan, store: ShardStore, run: Run) -> dict[str, float]:
    """Score what is missing, keep every shard as it comes, and say how fast it went."""
    total, size, began = plan.data.documents, plan.options.shard, monotonic()
    todo = set(range(plan.n_shards)) - store.finished
    documents = tokens = 0
    if todo:
        done = _done(store, total, size)
        plan.options.report_progress(done, total, "documents")
        shards = in_shards(plan.source.read(min(todo) * size), size, todo)
        with closing(run(shards)) as scored:  # workers go at once, whatever stops this loop
            for number, found in scored:
                _check_size(plan, number, len(found.rows))
                store.keep(number, found)
                documents += len(found.rows)
                tokens += sum(row.tokens for row in found.rows)
                plan.options.report_progress(done + documents, total, "documents")
    if len(store.finished) < plan.n_shards:
        raise InputError(f"the data {plan.data.name} became shorter while they were read: repeat the call")
    return {"documents": documents, "tokens": tokens, "seconds": round(monotonic() - began, 3)}


def _scored_here(plan: Plan, store: ShardStore, scorer: Scorer, shards: Shards) -> Found:
    """The plain path: one shard after another, in this process."""
    options, total = plan.options, plan.data.documents
    for number, documents in shards:
        before = _done(store, total, options.shard)

        def tell(count: int, before: int = before) -> None:
            options.report_progress(before + count, total, "documents")

        yield number, scorer.score(documents, tell)


def _done(store: ShardStore, total: int, size: int) -> int:
    """Documents of finished shards."""
    return sum(min(size, total - number * size) for number in store.finished)


def _check_size(plan: Plan, number: int, found: int) -> None:
    size = plan.options.shard
    if found != min(size, plan.data.documents - number * size):
        raise InputError(
            f"the data {plan.data.name} changed while they were read (shard {number}): repeat the call"
        )


def _summary(plan: Plan, store: ShardStore, chosen: ChosenHeads, ran: tuple[str, dict[str, float]]) -> Scores:
    options, subject = plan.options, plan.subject
    found = tally([store.path(number) for number in range(plan.n_shards)])
    notes = [*subject.notes, *chosen.notes, *found.notes]
    if found.cut:
        notes.append(f"{found.cut} of {found.documents} documents were cut to their first tokens")
    provenance = Provenance(
        model=subject.record,
        mode="fused",
        tokens=found.tokens,
        prompts=found.documents,
        seed=options.seed,
        logit_drift=subject.drift,
        command=options.command,
        started=plan.started,
        ended=utc_now(),
        settings={
            "data": {"name": plan.data.name, "sha256": plan.data.sha256, "documents": plan.data.documents},
            "shard": options.shard,
            "batch_tokens": options.batch_tokens,
            "max_tokens": options.max_tokens,
            "share": options.share if plan.finds_heads else None,
            "detect": options.detect if plan.finds_heads else None,
            "workers": options.workers,
            "last_call": ran[1],
        },
        notes=tuple(dict.fromkeys(notes)),
    )
    scores = Scores(options.folder, ran[0], chosen.heads, found, plan.n_shards, provenance)
    scores.save()
    return scores
