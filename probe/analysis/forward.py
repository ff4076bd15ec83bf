"""One batch through the model: its tensors, and no more logits than one position."""

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from probe.analysis.inputs import Item
from probe.errors import BudgetError, InputError, ModelError, UsageError
from probe.models import LoadedModel


class Runner:
    """Knows how to call one model: which keywords it takes, where its inputs live, how it pads."""

    def __init__(self, loaded: LoadedModel, chunk: int | None = None) -> None:
        self.loaded = loaded
        self.model: nn.Module = loaded.model
        self.chunk = chunk
        self.accepts = frozenset(inspect.signature(self.model.forward).parameters)
        self.config = getattr(self.model, "config", None)
        self.encoder_decoder = bool(getattr(self.config, "is_encoder_decoder", False))
        if chunk is not None and (
            self.encoder_decoder or not self.accepts >= {"past_key_values", "use_cache"}
        ):
            raise UsageError(
                f"chunk={chunk} was asked; {loaded.name} has no KV cache to prefill: leave chunk out"
            )

    def tensors(self, items: Sequence[Item]) -> dict[str, Any]:
        """The model's inputs for a batch; shorter prompts are padded on the right, which moves no position."""
        device = self._device()
        if items[0].inputs is not None:
            return {k: v.to(device) if isinstance(v, Tensor) else v for k, v in items[0].inputs.items()}
        rows = [item.prompt.tokens for item in items if item.prompt is not None]
        width = max(map(len, rows))
        ids = torch.full((len(rows), width), self._pad(), dtype=torch.int64)
        mask = torch.zeros_like(ids)
        for row, tokens in enumerate(rows):
            ids[row, : len(tokens)] = torch.tensor(tokens)
            mask[row, : len(tokens)] = 1
        made: dict[str, Any] = {"input_ids": ids.to(device)}
        if "attention_mask" in self.accepts:
            made["attention_mask"] = mask.to(device)
        elif len({len(tokens) for tokens in rows}) > 1:
            raise InputError(
                f"prompts of several lengths were given to {self.loaded.name}, which takes no padding: "
                "use batch_size=1"
            )
        if self.encoder_decoder:
            made["decoder_input_ids"] = self._decoder_start(len(rows)).to(device)
        return made

    def run(self, inputs: dict[str, Any]) -> None:
        """One forward (several with `chunk`) without gradients; raises `ModelError` where the output is not finite."""
        with torch.no_grad():
            output = (
                self._chunked(inputs) if self.chunk is not None else self.model(**inputs, **self._frugal())
            )
        logits = getattr(output, "logits", None)
        if isinstance(logits, Tensor) and not bool(torch.isfinite(logits).all()):
            raise ModelError(
                f"the logits of {self.loaded.name} are not finite, although every attention layer's were: "
                "look at its last layers, or compute in float32 (dtype='float32')"
            )

    def note(self) -> str | None:
        """What a reader must know about the inputs."""
        if not self.encoder_decoder:
            return None
        return "the decoder was given its start token alone, so its rows are that one position"

    def _frugal(self) -> dict[str, Any]:
        wanted = {"logits_to_keep": 1, "use_cache": False}
        return {name: value for name, value in wanted.items() if name in self.accepts}

    def _chunked(self, inputs: dict[str, Any]) -> Any:
        chunk = self.chunk or 1
        ids = inputs.get("input_ids")
        if not isinstance(ids, Tensor) or set(inputs) - {"input_ids", "attention_mask"}:
            raise UsageError(f"chunk={chunk} was asked for ready-made inputs; it works on token ids alone")
        mask = inputs.get("attention_mask")
        keep = {"logits_to_keep": 1} if "logits_to_keep" in self.accepts else {}
        cache, output = None, None
        for start in range(0, ids.shape[1], chunk):
            stop = min(start + chunk, ids.shape[1])
            masked = {} if mask is None else {"attention_mask": mask[:, :stop]}
            output = self.model(ids[:, start:stop], past_key_values=cache, use_cache=True, **masked, **keep)
            cache = output.past_key_values
        return output

    def _device(self) -> torch.device:
        embeddings = getattr(self.model, "get_input_embeddings", None)
        try:
            table = embeddings() if embeddings is not None else None
        except NotImplementedError:
            table = None
        weight = getattr(table, "weight", None)
        return weight.device if isinstance(weight, Tensor) else self.loaded.device

    def _pad(self) -> int:
        for source in (self.loaded.tokenizer, self.config):
            for name in ("pad_token_id", "eos_token_id"):
                value = getattr(source, name, None)
                if isinstance(value, int) and value >= 0:
                    return value
        return 0

    def _decoder_start(self, rows: int) -> Tensor:
        generation = getattr(self.model, "generation_config", None)
        for source in (generation, self.config):
            for name in ("decoder_start_token_id", "bos_token_id", "pad_token_id"):
                value = getattr(source, name, None)
                if isinstance(value, int):
                    return torch.full((rows, 1), value, dtype=torch.int64)
        raise InputError(
            f"text was given to {self.loaded.name}, whose decoder has no start token: give a mapping with "
            "decoder_input_ids"
        )


@contextmanager
def out_of_memory(what: str, n_tokens: int) -> Iterator[None]:
    """Turn the many forms of 'no memory' into a `BudgetError` that names the size."""
    try:
        yield
    except (MemoryError, torch.OutOfMemoryError) as error:
        raise _budget(what, n_tokens, error) from error
    except RuntimeError as error:
        if "can't allocate memory" not in str(error) and "out of memory" not in str(error):
            raise
        raise _budget(what, n_tokens, error) from error


def _budget(what: str, n_tokens: int, error: BaseException) -> BudgetError:
    first = (str(error).strip() or type(error).__name__).splitlines()[0]
    return BudgetError(
        f"{what} of {n_tokens} tokens was asked; memory ran out ({first}): "
        "use fewer tokens (--max-tokens), --chunk, or a narrower --dtype"
    )
