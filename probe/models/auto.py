"""Which of transformers' auto classes loads a checkpoint: by the architectures it names, never by a model's name."""

from typing import Any

# In this order; a configuration that names no listed architecture is loaded by AutoModel, without a head.
_CLASSES = (
    ("AutoModelForCausalLM", "MODEL_FOR_CAUSAL_LM_MAPPING_NAMES"),
    ("AutoModelForSeq2SeqLM", "MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES"),
    ("AutoModelForImageTextToText", "MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES"),
    ("AutoModelForSpeechSeq2Seq", "MODEL_FOR_SPEECH_SEQ_2_SEQ_MAPPING_NAMES"),
)


def auto_class(config: Any) -> Any:
    """The auto class for a configuration: the first whose table lists one of its architectures."""
    import transformers
    from transformers.models.auto import modeling_auto

    wanted = set(getattr(config, "architectures", None) or ())
    for auto, table in _CLASSES:
        listed = getattr(modeling_auto, table, {}).get(config.model_type, ())
        if wanted & ({listed} if isinstance(listed, str) else set(listed)):
            return getattr(transformers, auto)
        # Code that comes with the model says itself what loads it.
        if auto in (getattr(config, "auto_map", None) or {}):
            return getattr(transformers, auto)
    return transformers.AutoModel
