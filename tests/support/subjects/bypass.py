"""Models whose attention never reaches the registry."""

from subjects.decoders import decoder
from subjects.dense import GPT2
from subjects.encoders import encoder
from subjects.seq2seq import BART, translator

SUBJECTS = [
    decoder("bloom", "Bloom", {"n_layer": 2, "n_head": 4}, family="bypass", bypass=True, features=("alibi",)),
    decoder(
        "falcon",
        "Falcon",
        {"new_decoder_architecture": False, "multi_query": True},
        family="bypass",
        bypass=True,
    ),
    decoder(
        "gpt-neo",
        "GPTNeo",
        {"num_layers": 2, "num_heads": 4, "attention_types": [[["global", "local"], 1]], "window_size": 5},
        family="bypass",
        bypass=True,
        features=("window",),
    ),
    decoder("gptj", "GPTJ", {**GPT2, "rotary_dim": 4}, family="bypass", bypass=True),
    decoder("codegen", "CodeGen", {**GPT2, "rotary_dim": 4}, family="bypass", bypass=True),
    decoder(
        "mpt",
        "Mpt",
        {"d_model": 32, "n_heads": 4, "n_layers": 2, "max_seq_len": 64, "use_cache": True},
        family="bypass",
        bypass=True,
        features=("alibi",),
    ),
    decoder(
        "xglm",
        "XGLM",
        {"d_model": 32, "num_layers": 2, "attention_heads": 4, "ffn_dim": 48},
        family="bypass",
        bypass=True,
    ),
    decoder(
        "openai-gpt",
        "OpenAIGPT",
        GPT2,
        model="OpenAIGPTLMHeadModel",
        family="bypass",
        bypass=True,
        cache=False,
    ),
    encoder(
        "deberta-v2",
        "DebertaV2",
        {"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "max_relative_positions": 16},
        family="bypass",
        bypass=True,
        features=("disentangled",),
    ),
    encoder("mpnet", "MPNet", family="bypass", bypass=True, features=("position bias",)),
    encoder("roformer", "RoFormer", {"embedding_size": 32}, family="bypass", bypass=True),
    translator(
        "led",
        "LED",
        {
            **BART,
            "max_encoder_position_embeddings": 64,
            "max_decoder_position_embeddings": 64,
            "attention_window": 8,
        },
        fallback="some",
        family="bypass",
        bypass=True,
        features=("block-local encoder",),
    ),
    decoder(
        "rwkv",
        "Rwkv",
        {"context_length": 64, "attention_hidden_size": 32},
        family="bypass",
        bypass=True,
        fallback="none",
        cache=False,
    ),
]
