"""All subjects, by name."""

from subjects import (
    bypass,
    dense,
    encoders,
    hybrid,
    latent,
    moe,
    multimodal,
    seq2seq,
    sliding,
    special,
    vision,
)
from subjects.subject import Subject

FAMILIES = (dense, latent, moe, sliding, special, hybrid, encoders, seq2seq, vision, multimodal, bypass)
SUBJECTS: dict[str, Subject] = {one.name: one for family in FAMILIES for one in family.SUBJECTS}
