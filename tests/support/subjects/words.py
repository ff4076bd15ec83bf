"""Random but repeatable inputs: words, padded words, words for an encoder and a decoder, pixels."""

import torch
from subjects.subject import FIRST_WORD, PAD, VOCABULARY, Inputs
from torch import Tensor, nn

PADS = 3  # how many pads row 0 starts with


def ids(batch: int, length: int, seed: int = 2) -> Tensor:
    """Token ids without special tokens, with repeats so that duplicate tokens exist."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(FIRST_WORD, VOCABULARY, (batch, length), generator=generator)


def text(_model: nn.Module, batch: int, length: int, left_padding: bool) -> Inputs:
    """Words for a decoder or an encoder."""
    tokens = ids(batch, length)
    mask = torch.ones_like(tokens)
    if left_padding:
        tokens[0, :PADS] = PAD
        mask[0, :PADS] = 0
    return {"input_ids": tokens, "attention_mask": mask}


def both_sides(model: nn.Module, batch: int, length: int, left_padding: bool) -> Inputs:
    """Words for an encoder and other words, of another length, for its decoder."""
    return {**text(model, batch, length, left_padding), "decoder_input_ids": ids(batch, length - 3, seed=3)}


def pixels(size: int, name: str = "pixel_values"):  # type: ignore[no-untyped-def]
    """A builder of images of ``size`` × ``size`` pixels; length and padding do not apply."""

    def image(_model: nn.Module, batch: int, _length: int, _left_padding: bool) -> Inputs:
        generator = torch.Generator().manual_seed(4)
        return {name: torch.randn(batch, 3, size, size, generator=generator)}

    return image
