"""Statistics of a row: sums and maxima over its keys, one small function each."""

import torch
from torch import Tensor

from probe_kernels.block import Block, of_block
from probe_kernels.chunks import HIDDEN, Chunk
from probe_kernels.firsts import first_masses
from probe_kernels.ledger import Ledger, at

Place = tuple[slice, slice, slice]


def place(block: Block) -> Place:
    """Where a block's rows go in ``[B, H, Q]``."""
    return block.batch, block.heads, block.chunk.rows


def lse(ledger: Ledger, block: Block) -> None:
    """Log of the sum of e^s, sink included."""
    if ledger.out.lse is not None and block.lse is not None:
        ledger.out.lse[place(block)] = block.lse


def entropy(ledger: Ledger, block: Block) -> None:
    """H = lse - Σ p·s - sink mass·sink, in nats; -Σ p log p where the probabilities were edited."""
    if ledger.out.entropy is None:
        return
    mean = torch.linalg.vecdot(block.p, _known(block.scores))
    spread = spread_of(ledger, place(block), _known(block.lse), mean, block.sink_mass)
    if block.edited is not None:
        p = block.p.index_select(1, block.edited)
        found = -torch.linalg.vecdot(p, p.log().clamp_min(HIDDEN))  # xlogy, but three times as fast
        if block.sink_mass is not None:
            mass = block.sink_mass.index_select(1, block.edited)
            found = found - torch.special.xlogy(mass, mass)
        spread = spread.index_copy(1, block.edited, found)
    ledger.out.entropy[place(block)] = spread


def spread_of(ledger: Ledger, where: Place, lse: Tensor, mean: Tensor, sink_mass: Tensor | None) -> Tensor:
    """Entropy from lse and the keys' part of the mean score."""
    if sink_mass is not None and ledger.scores.sinks is not None:
        sinks = of_block(ledger.scores.sinks, *where).to(mean.dtype)
        mean = mean + torch.where(sink_mass > 0, sink_mass * sinks, 0.0)
    return torch.where(lse == -torch.inf, 0.0, lse - mean).clamp_min(0.0)


def _known(part: Tensor | None) -> Tensor:
    if part is None:
        raise RuntimeError("this statistic needs the block's lse or scores, kept elsewhere: fold it there")
    return part


def square(ledger: Ledger, block: Block) -> None:
    """Σ p²."""
    if ledger.out.square is not None:
        ledger.out.square[place(block)] = torch.linalg.vecdot(block.p, block.p)


def top(ledger: Ledger, block: Block) -> None:
    """The largest probability and the storage index of its key."""
    if ledger.out.top_p is None or ledger.out.top_index is None:
        return
    most, index = block.p.max(-1)
    ledger.out.top_p[place(block)] = most
    ledger.out.top_index[place(block)] = (index + block.chunk.keys.start).masked_fill(most == 0, -1)


def distance(ledger: Ledger, block: Block) -> None:
    """Σ p·|query position - key position|."""
    if ledger.out.distance is None:
        return
    if not ledger.causal:
        mean = _far(ledger, block, block.p)
    else:
        behind, ahead = behind_of(ledger, block.chunk)
        mean = block.linear(at(behind, block.batch)[..., None])[..., 0]
        mean = mean + mass_of(_known(block.lse), block.sink_mass) * at(ahead, block.batch)[:, None]
        if block.edited is not None:
            found = _far(ledger, block, block.p.index_select(1, block.edited))
            mean = mean.index_copy(1, block.edited, found)
    ledger.out.distance[place(block)] = mean


def _far(ledger: Ledger, block: Block, p: Tensor) -> Tensor:
    chunk = block.chunk
    far = chunk.once(("far", ledger.dtype), lambda: gap(ledger, chunk).abs().to(ledger.dtype)[:, None])
    mean: Tensor = torch.linalg.vecdot(p, at(far, block.batch))
    return mean


def behind_of(ledger: Ledger, chunk: Chunk) -> tuple[Tensor, Tensor]:
    """How far each key lies behind the chunk's middle ``[b, keys]``, and each query ahead of it ``[b, rows]``.

    Counted from the middle, so that far positions do not cancel in float32.
    """

    def make() -> tuple[Tensor, Tensor]:
        layout = ledger.ground.layout
        query, key = layout.query_pos[:, chunk.rows], layout.key_pos[:, chunk.keys]
        middle = query[:, query.shape[1] // 2, None]
        return torch.sub(middle, key).to(ledger.dtype), torch.sub(query, middle).to(ledger.dtype)

    return chunk.once(("behind", ledger.dtype), make)


def mass_of(lse: Tensor, sink_mass: Tensor | None) -> Tensor:
    """What an unedited row's keys hold together: 1, less the sink; 0 where no key is seen."""
    mass = (lse != -torch.inf).to(lse.dtype)
    return mass if sink_mass is None else torch.where(mass > 0, 1 - sink_mass, 0.0)


def gap(ledger: Ledger, chunk: Chunk) -> Tensor:
    """Query position less key position, ``[b, rows, keys]``."""
    layout = ledger.ground.layout
    return layout.query_pos[:, chunk.rows, None] - layout.key_pos[:, None, chunk.keys]


def first(ledger: Ledger, block: Block) -> None:
    """Mass on the first n visible keys."""
    key_pos = None if ledger.ground.ascending else ledger.ground.layout.key_pos
    for n, mass in first_masses(block, ledger.want.first, key_pos).items():
        ledger.out.first[n][place(block)] = mass


def offsets(ledger: Ledger, block: Block) -> None:
    """Mass on the key exactly o positions behind."""
    chunk, ground = block.chunk, ledger.ground
    for offset, out in ledger.out.offsets.items():
        shift = ground.shift
        if shift is not None:
            start = chunk.rows.start + shift - offset - chunk.keys.start
            if -chunk.n_rows < start < chunk.n_keys:
                mass = block.p.diagonal(start, -2, -1)
                row = chunk.rows.start + max(-start, 0)
                out[block.batch, block.heads, row : row + mass.shape[-1]] = mass
            continue
        query = at(ground.layout.query_pos, block.batch)[:, chunk.rows]
        key = at(ground.layout.key_pos, block.batch)[:, chunk.keys]
        if ground.ascending:
            out[place(block)] = _at_places(block.p, key, query - offset)
            continue
        hit = (key[:, None, :] == (query - offset)[:, :, None])[:, None]
        out[place(block)] = torch.where(hit, block.p, 0.0).sum(-1)


def _at_places(p: Tensor, key: Tensor, wanted: Tensor) -> Tensor:
    """Each row's probability of the key at its wanted position, 0 where there is none; keys ascend."""
    size = max(key.shape[0], wanted.shape[0])
    key, wanted = key.expand(size, -1).contiguous(), wanted.expand(size, -1).contiguous()
    index = torch.searchsorted(key, wanted).clamp_max(key.shape[1] - 1)
    hit = key.gather(1, index) == wanted
    found = p.gather(3, index[:, None, :, None].expand(*p.shape[:3], 1))[..., 0]
    return torch.where(hit[:, None], found, 0.0)


def matches(ledger: Ledger, block: Block) -> None:
    """Mass on the keys that carry the query's id."""
    chunk = block.chunk
    for name, match in ledger.want.matches.items():
        query = at(match.query_ids, block.batch)[:, chunk.rows, None]
        same = (query == at(match.key_ids, block.batch)[:, None, chunk.keys])[:, None]
        ledger.out.matches[name][place(block)] = torch.where(same, block.p, 0.0).sum(-1)


def key_groups(ledger: Ledger, block: Block) -> None:
    """Mass per group of keys."""
    for name, labels in ledger.labels.items():
        mass = block.linear(at(labels, block.batch)[:, block.chunk.keys])
        ledger.out.key_groups[name][place(block)] = mass


def table(ledger: Ledger, block: Block) -> None:
    """The log of the sum of e^s of every block of keys."""
    if ledger.out.table is None:
        return
    size, chunk = ledger.want.table, block.chunk
    s = torch.nn.functional.pad(_known(block.scores), (0, -chunk.n_keys % size), value=HIDDEN)
    sums = torch.logsumexp(s.reshape(*s.shape[:3], -1, size), dim=-1)
    sums = sums.masked_fill(sums <= HIDDEN / 10, -torch.inf).transpose(-1, -2)
    start = chunk.keys.start // size
    ledger.out.table[block.batch, block.heads, start : start + sums.shape[-2], chunk.rows] = sums
