"""The work of an edit: what the model writes as it is, edited and under a control, and what the edit moves."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import probe
from probe.analysis.ablation.by_token import token_divergence
from probe.analysis.continuation import Decoding
from probe.interventions.making import make
from probe.prompts.spans import Chars
from probe_app.jobs import write_json
from probe_app.work.analysis import run_folder


def work(request: Mapping[str, Any], place: Path, tell: Any) -> dict[str, Any]:
    """Continue a prompt, score each of its tokens, and analyze it twice; says the names of the two reports.

    What it found besides goes into ``result.json``: ``texts`` as `probe.generate` gives them, ``tokens`` as
    `token_divergence` does.
    """
    steps = 5
    tell(0, steps, f"loading {request['model']}")
    loaded = probe.load(request["model"])
    spans = {name: Chars(tuple(where)) for name, where in (request.get("spans") or {}).items()}
    prompt = probe.Prompt.of(str(request["text"]), loaded.tokenizer, spans=spans, id="edit")
    edits = [make(spec) for spec in request["interventions"]]
    tell(1, steps, "writing")
    seed = int(request.get("seed") or 0)
    decoding = Decoding(int(request.get("new_tokens") or 20))
    texts = probe.generate(loaded, prompt, edits, decoding=decoding, control=True, seed=seed)
    tell(2, steps, "scoring the prompt")
    scored = token_divergence(loaded, prompt, edits)
    write_json(place / "result.json", {"texts": texts.to_json(), "tokens": scored.to_json()})
    reports = {}
    for number, (name, acting) in enumerate((("base", []), ("edited", edits)), 3):
        tell(number, steps, f"attention of the {name} model")
        folder = run_folder(request, name)
        probe.analyze(loaded, prompt, None, acting, out=folder, keep="map", seed=seed)
        reports[name] = folder.name
    return {"reports": reports}
