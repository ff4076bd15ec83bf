"""A model in which one head and one MLP alone write to the stream: the circuit of whatever it does."""

import tiny
import torch
from transformers import LlamaForCausalLM


def lone_writers() -> LlamaForCausalLM:
    """Three layers of which L1.H2 and the MLP of layer 2 alone write to the stream."""
    model = tiny.llama(num_hidden_layers=3)
    with torch.no_grad():
        for number, layer in enumerate(model.model.layers):
            # Small, not 0: what writes nothing at all is no writer.
            kept = layer.self_attn.o_proj.weight[:, 16:24].clone()
            layer.self_attn.o_proj.weight.mul_(1e-4)
            if number == 1:
                layer.self_attn.o_proj.weight[:, 16:24] = 3 * kept
            if number != 2:
                layer.mlp.down_proj.weight.mul_(1e-4)
    return model
