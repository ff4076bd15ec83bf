"""Use an installed wheel as a user would: from a folder of their own, through the command line.

Usage: python smoke.py REPOSITORY
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import probe_app
import probe_kernels
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

import probe
from probe.prompts import data_dir

TEXT = "the cat sat on the mat and the dog sat on the rug"


def tiny_model(folder: Path) -> None:
    """Save a two-layer Llama with a word tokenizer."""
    words = {word: number for number, word in enumerate(["<unk>", *dict.fromkeys(TEXT.split())])}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>").save_pretrained(folder)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = LlamaConfig(vocab_size=len(words), num_key_value_heads=2, max_position_embeddings=128, **sizes)
    LlamaForCausalLM(config).save_pretrained(folder)


def command(*words: str) -> str:
    """Run `probe` and return its standard output; a non-zero exit ends the smoke test."""
    print("$ probe", *words, flush=True)
    executable = str(Path(sys.executable).with_name("probe"))
    return subprocess.run([executable, *words], check=True, stdout=subprocess.PIPE, text=True).stdout


def check(holds: bool, what: str) -> None:
    """Stop with `what` unless it holds."""
    if not holds:
        sys.exit(f"wheel smoke test: {what}")


repository = Path(sys.argv[1]).resolve()
for package in (probe, probe_kernels, probe_app):
    check(repository not in Path(package.__file__).parents, f"{package.__name__} came from the repository")
check(data_dir().name == "probe_data", f"data was found at {data_dir()}, not inside the wheel")

with tempfile.TemporaryDirectory() as folder:
    os.chdir(folder)
    os.environ["PROBE_HOME"] = f"{folder}/home"  # the default model is fetched and converted anew
    tiny_model(Path("tiny"))
    check("entropy" in command("metrics"), "probe metrics does not name entropy")
    command("analyze", "tiny", "--text", TEXT, "--out", "run")
    check("entropy" in command("show", "run"), "probe show does not name entropy")
    answer = json.loads(command("analyze", "tiny", "--text", TEXT, "--metric", "entropy", "--json"))
    check(len(answer["metrics"]["entropy"]["values"]) == 2, "the JSON answer does not hold two layers")
    shipped = json.loads(
        command("analyze", "smollm2-135m", "--max-tokens", "64", "--metric", "entropy", "--json")
    )
    check(shipped["tokens"] == 64, "the shipped text was not read from the wheel")
