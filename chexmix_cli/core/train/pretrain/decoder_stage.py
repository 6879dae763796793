"""Put a decoder stage together: documents of a manifest or of token shards, start weights, task."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from chexmix_cli.core.errors import TrainingError
from chexmix_cli.core.models.decoder import Decoder
from chexmix_cli.core.models.init import init_code_rows, init_decoder
from chexmix_cli.core.models.meta import on_meta_device
from chexmix_cli.core.models.vqgan import Vqgan
from chexmix_cli.core.settings.load import to_dict
from chexmix_cli.core.settings.training import Stage1Training, Stage2Training
from chexmix_cli.core.text.tokenizer import TextTokenizer
from chexmix_cli.core.train.distributed import is_main
from chexmix_cli.core.train.examples.code_cache import Encoding, Progress, encode_splits
from chexmix_cli.core.train.examples.data_identity import manifest_identity, shard_identity
from chexmix_cli.core.train.examples.documents import DocumentSet, DocumentSource, encode_reports
from chexmix_cli.core.train.examples.run_folder import RunFolder
from chexmix_cli.core.train.examples.shard_documents import ShardDocuments, open_shards
from chexmix_cli.core.train.examples.splits import read_splits
from chexmix_cli.core.train.order import step_generator
from chexmix_cli.core.train.pretrain.decoder_task import DecoderTask
from chexmix_cli.core.weights import WeightsDir, save_model
from chexmix_cli.core.weights.files import tokenizer_files
from chexmix_cli.core.weights.fingerprint import tokenizer_hash
from chexmix_cli.core.weights.growth import load_grown_decoder
from chexmix_cli.core.weights.hub.registry import registry


@dataclass(frozen=True, slots=True)
class RunPlace:
    """Where a run happens.

    Attributes:
        run: the run folder.
        device: that trains, and encodes.
        progress: called with (what, done, in all) while data is prepared.
    """

    run: RunFolder
    device: torch.device
    progress: Progress


def decoder_task(
    settings: Stage1Training | Stage2Training, data: Path, start: WeightsDir | None, place: RunPlace
) -> tuple[DecoderTask, dict[str, Any]]:
    """Return the task of stage 1 or 2, and digests of the data it learns from (``data_identity``).

    Args:
        settings: root of the stage.
        data: manifest, or folder of token shards, with ``train`` and ``val`` rows.
        start: holds the image tokenizer, and the text tokenizer and the decoder unless the settings name others.
        place: where images are encoded, and to.

    Raises:
        TrainingError, DataError, WeightsError: as :func:`pretrain.pretrain`.
    """
    if start is None or not start.has_vqgan:
        raise TrainingError(
            "the decoder stages need a trained image tokenizer",
            where="--init",
            expected="the run or weights directory of `pretrain --stage tokenizer`",
        )
    model = settings.model
    for name in ("vqgan", "vocabulary", "image"):
        require_same(name, getattr(start.settings, name), getattr(model, name))
    tokenizer_file = _text_tokenizer_file(settings.documents.text_tokenizer, start)
    vqgan, train, val, learnt = _documents(settings, data, start, tokenizer_file, place)
    decoder = _start_decoder(settings, start, vqgan)
    stage = "2" if isinstance(settings, Stage2Training) else "1"
    # Weights that came from a model of weights.toml stay under its licence.
    origin = {} if start.entry is None else {"entry": start.entry.name}
    trained = model
    if isinstance(settings, Stage2Training) and settings.masking.attention == "bidirectional":
        # Every later command has to read images as they were read in training.
        trained = dataclasses.replace(model, decoder=dataclasses.replace(model.decoder, attention="bidirectional"))

    def export(directory: Path) -> None:
        save_model(
            directory,
            trained,
            decoder=decoder,
            vqgan=vqgan,
            tokenizer_file=tokenizer_file,
            provenance={**origin, "stage": stage, "seed": settings.train.seed, "init": start.fingerprint},
        )

    return DecoderTask(settings, decoder, train, val, export), learnt


def _documents(
    settings: Stage1Training | Stage2Training, data: Path, start: WeightsDir, tokenizer_file: Path, place: RunPlace
) -> tuple[Vqgan, DocumentSource, DocumentSource, dict[str, Any]]:
    """Return the image tokenizer, the documents of both splits, and digests of them.

    What may stop the run comes first: an hour of encoding, or a gigabyte of weights, after it.
    """
    model, documents = settings.model, settings.documents
    tokenizer = TextTokenizer.load(tokenizer_file.parent, model.vocabulary)
    assert tokenizer is not None
    cpu = torch.device("cpu")
    if data.is_dir():
        if documents.variants > 1:
            raise TrainingError(
                "token shards hold one encoding of each image",
                where=f"documents.variants = {documents.variants}",
                expected="1, or a manifest of images as --manifest",
            )
        shards = open_shards(data, start, tokenizer_file)
        train, val = (ShardDocuments(shards, split, model) for split in ("train", "val"))
        return start.load_vqgan(cpu, torch.float32), train, val, shard_identity(shards)
    rows = read_splits(data)
    reports = {split: encode_reports(found, tokenizer, model) for split, found in rows.items()}
    vqgan = start.load_vqgan(cpu, torch.float32)
    learnt = manifest_identity(rows, text_tokenizer=tokenizer_hash(tokenizer_file.parent))
    encoding = Encoding.in_run(place.run, learnt, start, documents, settings.train, place.device)
    codes = encode_splits(rows, vqgan, encoding, place.progress)
    sets = {split: DocumentSet(codes[split], reports[split], [row.id for row in rows[split]]) for split in rows}
    return vqgan, sets["train"], sets["val"], learnt


def _text_tokenizer_file(name: str, start: WeightsDir) -> Path:
    """Return the text tokenizer of ``init``, of a model of weights.toml, or of a directory."""
    if name == "init":
        directory = start.path
    else:
        entry = registry().get(name)
        directory = Path(name) if entry is None else entry.directory
    found = tokenizer_files(directory)
    if not found:
        raise TrainingError(
            "no text tokenizer",
            where=f"documents.text_tokenizer = {name!r}",
            expected="init, a model of weights.toml or a directory, with tokenizer.json",
        )
    return found[0]


def _start_decoder(settings: Stage1Training | Stage2Training, start: WeightsDir, vqgan: Vqgan) -> Decoder:
    shape, seed = settings.model.decoder, settings.train.seed
    if settings.train.parallel == "fsdp" and not is_main():
        # Its values come from rank 0 (``Layout``): a node's memory holds the model once.
        with on_meta_device():
            decoder = Decoder(shape)
    elif settings.start.decoder != "init":
        folder = Path(settings.start.decoder)
        decoder = load_grown_decoder(folder, shape, settings.model.vocabulary, step_generator(seed, 0))
    elif start.has_decoder:
        # Dropout is of the training, not of the weights; how it reads images is what the training is about.
        require_same(
            "decoder",
            dataclasses.replace(start.settings.decoder, residual_dropout=0.0, attention="causal"),
            dataclasses.replace(shape, residual_dropout=0.0),
        )
        decoder = start.load_decoder(torch.device("cpu"), torch.float32)
    else:
        start.refuse_foreign_decoder()
        decoder = Decoder(shape)
        generator = step_generator(seed, 0)
        init_decoder(decoder, generator)
        codebook_KE = vqgan.quantize.embedding.weight.detach()
        init_code_rows(decoder, codebook_KE, settings.model.vocabulary.image_start, generator)
    decoder.set_dropout(shape.residual_dropout)
    return decoder


def require_same(name: str, found: Any, wanted: Any) -> None:
    """Raise TrainingError, naming what differs, unless the start weights are of the model in training."""
    if found != wanted:
        changed = [key for key, value in to_dict(wanted).items() if to_dict(found)[key] != value]
        raise TrainingError(
            f"its {name} differs in {', '.join(changed)}",
            where="--init",
            expected="the settings of the model in training",
            hint="choose the --preset the start weights were trained with",
        )
