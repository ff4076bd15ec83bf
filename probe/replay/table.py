"""Every claim that can be replayed. An entry costs no import; the file that it names measures."""

from probe.replay.claim import Claims, Listed

_WU = "Wu et al. 2024 (arXiv:2404.15574)"

CLAIMS = Claims(
    {
        # What heads retrieve
        "masking": Listed(
            "probe.replay.claims.masking:CLAIM", "Masking retrieval heads loses the needle", _WU, 5
        ),
        # Where an answer comes from
        "document": Listed(
            "probe.replay.claims.document:CLAIM",
            "Reinforcing heads that read the document makes answers follow it",
            "He et al. 2025 (arXiv:2412.13949)",
            4,
        ),
        "sentence": Listed(
            "probe.replay.claims.sentence:CLAIM",
            "Knocking out the answer's sentence removes the answer",
            "Geva et al. 2023 (arXiv:2304.14767)",
            3,
        ),
    }
)
