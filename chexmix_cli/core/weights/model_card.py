"""What an export says of itself to people: terms, what the ids mean, how a report is asked for."""

from __future__ import annotations

import json
from typing import Literal

from chexmix_cli.core.settings.inference import DecodeSettings
from chexmix_cli.core.settings.model import ModelSettings
from chexmix_cli.core.text.row_names import row_name
from chexmix_cli.core.weights.directory import WeightsDir

#: Who the export is for.
Library = Literal["transformers", "llama.cpp"]

_HOW = {
    "transformers": """\
```python
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

model, tokenizer = AutoModelForCausalLM.from_pretrained("."), AutoTokenizer.from_pretrained(".")
codes = []  # of a film: `chexmix tokenize FILM --weights WEIGHTS`
prompt = [{begin_image}, *(code + {image_start} for code in codes), {end_image}, {begin_text}]
new = model.generate(torch.tensor([prompt]))[0, len(prompt):]
print(tokenizer.decode(new, skip_special_tokens=True))
```
""",
    "llama.cpp": """\
```python
from llama_cpp import GGML_TYPE_F32, Llama

model = Llama("FILE.gguf", n_ctx={positions}, type_k=GGML_TYPE_F32, type_v=GGML_TYPE_F32)
codes = []  # of a film: `chexmix tokenize FILM --weights WEIGHTS`
prompt = [{begin_image}, *(code + {image_start} for code in codes), {end_image}, {begin_text}]
print(model.create_completion(prompt, max_tokens={max_new}, temperature=0)["choices"][0]["text"])
```
""",
}


def card_text(weights: WeightsDir, library: Library) -> str:
    """Return the model card of an export, Markdown with the metadata that model hubs read."""
    settings, licence = weights.settings, None if weights.entry is None else weights.entry.licence
    # JSON strings are YAML strings, whatever a name holds.
    metadata = ["pipeline_tag: text-generation", "tags: [radiology, chest-x-ray, chexmix, phi]"]
    if library == "transformers":
        metadata.append("library_name: transformers")
    if licence is not None:
        # Hubs know the open licences by their SPDX names; terms that are to be accepted have one of their own.
        names = {"license": licence.name.lower()}
        if licence.must_accept:
            names = {"license": "other", "license_name": licence.name, "license_link": licence.url}
        metadata += [f"{key}: {json.dumps(value)}" for key, value in names.items()]
    terms = "not recorded in the weights: ask whoever trained them"
    if licence is not None:
        terms = f"{licence.name}, {licence.url}\n\n{licence.text.strip()}"
    vocabulary = settings.vocabulary
    how = _HOW[library].format(
        begin_image=vocabulary.begin_image,
        end_image=vocabulary.end_image,
        begin_text=vocabulary.begin_text,
        image_start=vocabulary.image_start,
        positions=settings.decoder.max_positions,
        max_new=DecodeSettings().max_new_tokens,
    )
    parts = [
        "---\n" + "\n".join(metadata) + "\n---",
        f"# {settings.name}: decoder",
        "The decoder of a CheXmix model, an early-fusion model of chest radiographs and reports, exported by "
        "`chexmix weights export`. **Not a medical device; not for clinical use.**",
        f"## Licence\n\n{terms}",
        f"## Sequence\n\n{sequence_text(settings)}",
        _table(settings),
        f"## A report\n\n{how}",
        "The image tokenizer, which makes codes of films, is not part of this export; only codes of the one that the "
        "decoder was trained with mean anything to it.",
    ]
    if differences(settings):
        parts.append("## Differences from chexmix\n\n" + "\n".join(f"- {line}." for line in differences(settings)))
    return "\n\n".join(part.strip() for part in parts) + "\n"


def sequence_text(settings: ModelSettings) -> str:
    """Return what a prompt for a report is, in one paragraph."""
    vocabulary = settings.vocabulary
    count, stop = vocabulary.tokens_per_image, vocabulary.image_stop
    return (
        f"A report prompt is {vocabulary.begin_image}, then the film's {count} image codes row by row, each as the id "
        f"{vocabulary.image_start} + code ({vocabulary.image_start}..{stop - 1}), then {vocabulary.end_image}, then "
        f"{vocabulary.begin_text}; the report follows, up to {vocabulary.begin_text} or {vocabulary.begin_image}."
    )


def differences(settings: ModelSettings) -> list[str]:
    """Return what other programs compute otherwise than chexmix with these weights, a clause each."""
    if settings.decoder.rope_dtype == "float32":
        return []
    return [
        "chexmix rounds this model's rotary frequencies to bfloat16, as they were when its reference outputs were "
        "made; other programs do not, and logits differ by about 1e-3"
    ]


def _table(settings: ModelSettings) -> str:
    vocabulary = settings.vocabulary
    first, last = (row_name(vocabulary, token_id) for token_id in (vocabulary.image_start, vocabulary.image_stop - 1))
    rows = [
        (f"0..{vocabulary.num_text - 1}", "", "text, byte-level BPE, and the specials below"),
        (str(vocabulary.begin_image), "`<|img|>`", "an image begins"),
        (str(vocabulary.end_image), "`<|/img|>`", "an image ends"),
        (str(vocabulary.begin_text), "`<|endoftext|>`", "a report begins, and ends"),
        (f"{vocabulary.image_start}..{vocabulary.image_stop - 1}", f"`{first}`..`{last}`", "image codes"),
        (str(vocabulary.mask), f"`{row_name(vocabulary, vocabulary.mask)}`", "mask"),
        (str(vocabulary.pad), f"`{row_name(vocabulary, vocabulary.pad)}`", "padding"),
    ]
    return "\n".join(["| id | token | |", "|---|---|---|", *(f"| {' | '.join(row)} |" for row in rows)])
