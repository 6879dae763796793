"""What it saves that an image the decoder has read is kept: work that meets a film again, with and without, in turns.

Processor seconds of one process, the least of the rounds of each side; above 1 what is kept makes it faster. ``new
films`` meets none again: there it must cost nothing. ``explain`` is compared with reading every variant whole. At last
a disk: what writing and reading the keys and values of one film takes, beside computing them; and what a film's prompt
takes by the number of films that are read together.

Usage: OMP_NUM_THREADS=1 python benchmarks/prefixes.py [WEIGHTS] [--rounds N] [--quantize int8] [--together]
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from chexmix_cli.core.infer.decoding.batch import Batch
from chexmix_cli.core.infer.decoding.prefixes import NO_PREFIXES, read_prefix
from chexmix_cli.core.infer.reports.evidence import block_positions, find_evidence
from chexmix_cli.core.infer.scoring import token_logprobs
from chexmix_cli.core.settings.inference import DecodeSettings, ExplainSettings, InputSettings
from chexmix_cli.core.settings.serving import ServeHttpSettings
from chexmix_cli.library.films import Film
from chexmix_cli.library.model import Model
from chexmix_cli.library.opened import open_model
from chexmix_cli.library.reports import StudyReport
from chexmix_cli.serve.http.verbs import Classify, Embed, Report, Served

_FILM = Path(__file__).resolve().parents[1] / "docs" / "images" / "demo-film.jpg"
_SAMPLED = DecodeSettings(temperature=1.0)


@dataclass(frozen=True)
class _Asked:
    """A request of a server, of which nobody reads along."""

    film: Film
    seed: int

    def give_text(self, piece: str) -> None:
        """Take a piece of text."""


def main() -> None:
    """Measure each kind of work; print a line of JSON for each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("weights", nargs="?", help="default: the embedded model")
    parser.add_argument("--film", type=Path, default=_FILM)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quantize", choices=("int8", "int4"))
    parser.add_argument("--memory-mb", type=int, default=512)
    parser.add_argument("--together", action="store_true", help="measure films read together, and nothing else")
    given = parser.parse_args()
    base = Model(open_model(given.weights).weights, torch.device("cpu"), dtype_name="float32", quantize=given.quantize)
    if given.together:
        print(json.dumps({"work": "together", **together(base, given.rounds)}))
        return
    film = base.film(given.film)
    works = {"new films": new_films, "statements twice": statements, "questions": questions}
    for name, work in works.items():
        sides: list[Callable[[], Callable[[], Any]]] = [
            partial(side, work, base, size, film) for size in (0, given.memory_mb)
        ]
        print(json.dumps({"work": name, **compared(sides, given.rounds)}), flush=True)
    keeping = opened(base, given.memory_mb)
    (written,) = keeping.reporter()([film])
    print(json.dumps({"work": "explain", **compared(explained(keeping, written), given.rounds)}), flush=True)
    print(json.dumps({"work": "disk", **disk(keeping, written, given.rounds)}), flush=True)


def opened(base: Model, memory_mb: int) -> Model:
    """Return a model with the loaded parts of another and an empty store."""
    settings = InputSettings(prefix_memory_mb=memory_mb)
    model = Model(base.weights, base.device, settings, base.dtype_name, base.quantize)
    for name in ("decoder", "images", "tokenizer", "typical", "head"):
        model.__dict__[name] = getattr(base, name)
    writer = base.reports
    model.__dict__["reports"] = type(writer)(
        writer.engine.decoder, writer.vocabulary, writer.tokenizer, prefixes=model.prefixes
    )
    return model


def side(
    work: Callable[[Model, Film], Callable[[], Any]], base: Model, memory_mb: int, film: Film
) -> Callable[[], Any]:
    """Return the work of a model that keeps images in so much memory."""
    return work(opened(base, memory_mb), film)


def unlike(model: Model, count: int) -> list[Film]:
    """Return films of random codes."""
    vocabulary, generator = model.weights.settings.vocabulary, torch.Generator().manual_seed(0)
    size = (count, vocabulary.tokens_per_image)
    codes = torch.randint(vocabulary.num_codes, size, generator=generator)
    return [Film(str(row), None, image, {}) for row, image in enumerate(codes.tolist())]


def new_films(model: Model, film: Film) -> Callable[[], Any]:
    """Return work over films that are met once."""
    reporter, films = model.reporter(), unlike(model, 2)
    return lambda: reporter(films)


def statements(model: Model, film: Film) -> Callable[[], Any]:
    """Return the evaluation of the same films twice: the likelihood of sentences given each."""
    classifier, films = model.classifier(is_zero_shot=True), unlike(model, 2)
    return lambda: [classifier(films) for _ in range(2)]


def questions(model: Model, film: Film) -> Callable[[], Any]:
    """Return eight requests of a server, one after the other, on one film: six reports, findings, an embedding."""
    served = Served(model, ServeHttpSettings(), 0)
    _ = served.reporter, served.classifier
    last = model.weights.settings.decoder.num_layers
    verbs: list[tuple[Any, int]] = [
        *[(Report(_SAMPLED), seed) for seed in range(6)],
        (Classify(), 0),
        (Embed((last,)), 0),
    ]
    return lambda: [verb(served, [_Asked(film, seed)]) for verb, seed in verbs]


def explained(model: Model, written: StudyReport) -> list[Callable[[], Callable[[], Any]]]:
    """Return the evidence of a report by sequences that are each read whole, and as it is found."""
    engine, vocabulary, settings = model.reports.engine, model.weights.settings.vocabulary, ExplainSettings()
    assert model.tokenizer is not None, "weights with a text tokenizer"
    blocks = [[], range(vocabulary.tokens_per_image), *block_positions(vocabulary.tokens_per_image, settings.blocks)]
    sequences = []
    for block in blocks:
        prompt = vocabulary.report_prompt(written.codes)
        for position in block:
            prompt[1 + position] = vocabulary.mask
        sequences.append([*prompt, *written.report.report_ids])

    def whole() -> None:
        for start in range(0, len(sequences), settings.batch_size):
            token_logprobs(engine.decoder, sequences[start : start + settings.batch_size], pad=vocabulary.pad)

    def shared() -> None:
        store, tokenizer = engine.prefixes, model.tokenizer
        assert tokenizer is not None
        find_evidence(engine.decoder, tokenizer, written.codes, written.report, settings, prefixes=store)

    return [lambda: whole, lambda: shared]


def compared(sides: list[Callable[[], Callable[[], Any]]], rounds: int) -> dict[str, float]:
    """Return the least processor seconds of work without and with what is kept, in turns, and their ratio."""
    times: list[list[float]] = [[] for _ in sides]
    for _ in range(rounds):
        for make, own in zip(sides, times, strict=True):
            work = make()
            started = time.process_time()
            work()
            own.append(time.process_time() - started)
    without, kept = map(min, times)
    return {"without_s": round(without, 4), "kept_s": round(kept, 4), "ratio": round(without / kept, 3)}


def disk(model: Model, written: StudyReport, rounds: int) -> dict[str, Any]:
    """Return seconds by the wall's clock and the processor's of computing, copying, writing and reading one film's."""
    decoder = model.reports.engine.decoder
    prompt = model.weights.settings.vocabulary.report_prompt(written.codes)
    prefix, found = read_prefix(decoder, prompt, NO_PREFIXES), {}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "prefix.safetensors"
        ways: dict[str, Callable[[], Any]] = {
            "compute": lambda: read_prefix(decoder, prompt, NO_PREFIXES),
            "copy": prefix.copy,
            "write": lambda: save_file({"keys": prefix.keys_LNSH, "values": prefix.values_LNSH}, file),
            "read": lambda: [tensor.clone() for tensor in load_file(file).values()],
        }
        for name, way in ways.items():
            points = []
            for _ in range(rounds):
                before = time.perf_counter(), time.process_time()
                way()
                points.append((time.perf_counter() - before[0], time.process_time() - before[1]))
            found[name] = {"wall_s": min(wall for wall, _ in points), "processor_s": min(own for _, own in points)}
    return {**found, "bytes": prefix.num_bytes}


@torch.inference_mode()
def together(model: Model, rounds: int) -> dict[str, float]:
    """Return the least processor seconds a film of reading the prompts of 1, 4 and 16 films, in turns.

    In one pass, and, ``in groups``, as the engine reads those of a batch.
    """
    decoder, vocabulary = model.reports.engine.decoder, model.weights.settings.vocabulary
    prompts = [vocabulary.report_prompt(film.codes or []) for film in unlike(model, 16)]
    counts = (1, 4, 16)

    def in_one_pass(some: list[list[int]]) -> None:
        decoder(torch.tensor(some), cache=decoder.new_cache(len(some), len(some[0])))

    def in_groups(some: list[list[int]]) -> None:
        Batch(decoder, some, max_new_tokens=1, pad=vocabulary.pad).read_prompts()

    ways = {"in one pass": in_one_pass, "in groups": in_groups}
    times: dict[str, list[float]] = {}
    for _ in range(rounds):
        for count in counts:
            for name, read in ways.items():
                started = time.process_time()
                read(prompts[:count])
                times.setdefault(f"{count} {name}, s", []).append((time.process_time() - started) / count)
    return {name: round(min(own), 4) for name, own in times.items()}


if __name__ == "__main__":
    main()
