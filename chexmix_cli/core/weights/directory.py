"""A weights directory: found by name or path, its settings read, its parts loaded."""

from __future__ import annotations

import functools
import hashlib
import json
import logging
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from chexmix_cli.core.errors import WeightsError
from chexmix_cli.core.settings.inference import Quantize
from chexmix_cli.core.settings.load import nearest_hint, to_dict
from chexmix_cli.core.weights import files
from chexmix_cli.core.weights.detect import detect, holds_weights
from chexmix_cli.core.weights.fingerprint import file_sha256, tokenizer_hash
from chexmix_cli.core.weights.formats.header import read_header, refuse_placeholder
from chexmix_cli.core.weights.formats.keys import Slice, decoder_slices, same_name_slices
from chexmix_cli.core.weights.formats.safetensors_io import (
    TensorSource,
    filled,
    load_module,
    read_state,
    without_memory,
)
from chexmix_cli.core.weights.formats.sharded import find_network, foreign_decoder, network_files, open_safetensors
from chexmix_cli.core.weights.formats.vqgan_checkpoint import VqganCheckpoint
from chexmix_cli.core.weights.formats.wrappers import unwrap
from chexmix_cli.core.weights.hub.registry import EMBEDDED, ModelEntry, registry

if TYPE_CHECKING:
    import torch

    from chexmix_cli.core.models.decoder import Decoder
    from chexmix_cli.core.models.vqgan import Vqgan
    from chexmix_cli.core.text.tokenizer import TextTokenizer
    from chexmix_cli.core.weights.draft_index import DraftIndex

_LOG = logging.getLogger("chexmix")


class WeightsDir:
    """One model on disk; made by :func:`open_weights`. Settings are read at once, tensors only when asked for."""

    def __init__(self, path: Path, entry: ModelEntry | None = None) -> None:
        self.path = path
        files.refuse_links_out(path)
        networks = (find_network(path, name) for name in (files.MODEL_FILE, files.VQGAN_FILE))
        parts = [part for network in networks if network is not None for part in network_files(network)]
        self._headers = {part.name: read_header(part) for part in parts}
        detected = detect(path, self._headers, entry)
        self.settings, self.sources, self.provenance = detected.settings, detected.sources, detected.provenance
        self.entry = registry().get(detected.entry_name or "")

    @property
    def name(self) -> str:
        """Return the model's name."""
        return self.settings.name

    @property
    def decoder_file(self) -> Path | None:
        """Return the decoder's file, or the index of its files, or None if there is none."""
        return find_network(self.path, files.MODEL_FILE)

    @property
    def vqgan_file(self) -> Path | None:
        """Return the image tokenizer's file or index, safetensors before the pickled checkpoint, or None."""
        return find_network(self.path, files.VQGAN_FILE) or self._existing(files.VQGAN_CHECKPOINT)

    @property
    def tokenizer_file(self) -> Path | None:
        """Return ``tokenizer.json``, or ``vocab.json`` of the three-file layout, or None."""
        found = files.tokenizer_files(self.path)
        return found[0] if found else None

    @property
    def drafts_file(self) -> Path | None:
        """Return the index that drafts of reports are taken from, or None."""
        return self._existing(files.DRAFTS_FILE)

    @cached_property
    def text_tokenizer_hash(self) -> str | None:
        """Return 12 digits that stand for what the text tokenizer does (``fingerprint.tokenizer_hash``), or None."""
        return tokenizer_hash(self.path)

    @property
    def has_decoder(self) -> bool:
        """Return whether the directory holds a decoder."""
        return self.decoder_file is not None

    @property
    def has_vqgan(self) -> bool:
        """Return whether the directory holds an image tokenizer."""
        return self.vqgan_file is not None

    @property
    def sees_whole_image(self) -> bool:
        """Return whether image positions attended to the whole image in training."""
        return self.settings.decoder.attention == "bidirectional"

    @cached_property
    def fingerprint(self) -> str:
        """Return the sha256 over the digests of the weight files and the settings, without the model's name."""
        settings = {key: value for key, value in to_dict(self.settings).items() if key != "name"}
        # What was made with weights of 0.1.0 has their fingerprint without these, which it did not know. The first
        # stands in the header of the decoder's file, and so in that file's digest.
        del settings["decoder"]["attention"]
        if not settings["decoder"]["rope_grid"]:
            del settings["decoder"]["rope_grid"]
        networks = [path for path in (self.decoder_file, self.vqgan_file) if path is not None]
        digests = [file_sha256(part) for path in networks for part in network_files(path)]
        return hashlib.sha256(json.dumps([settings, digests], sort_keys=True).encode()).hexdigest()

    @cached_property
    def codebook_hash(self) -> str:
        """Return 12 digits of the codebook's sha256: codes mean something to the codebook they index only.

        Taken from the values in float32, so that a converted or exported file has the hash of its source.
        """
        source = self.vqgan_source()
        values = source.get("quantize.embedding.weight").float().contiguous().numpy().tobytes()
        source.release()
        return hashlib.sha256(values).hexdigest()[:12]

    @property
    def licence_notice(self) -> str | None:
        """Return one line on the terms of weights that are not ours, to be shown wherever they are used, or None."""
        licence = self.entry.licence if self.entry is not None else None
        if licence is None or not licence.must_accept:
            return None
        return f"These weights come under the {licence.name} ({licence.url}), not under chexmix's licence."

    def load_decoder(
        self, device: torch.device | str, dtype: torch.dtype, *, quantize: Quantize | None = None
    ) -> Decoder:
        """Return the decoder in eval mode; it reads images as they were read in training.

        Args:
            device, dtype: of its parameters.
            quantize: holds the matrices of its linear layers in 8 or 4 bits, for a CPU or a CUDA device; what comes of
                large weights is kept on disk (``formats/packed.py``).

        Raises:
            WeightsError: if the directory has none, or its keys do not fit the settings.
        """
        import torch

        from chexmix_cli.core.models.attention import ImageSpan
        from chexmix_cli.core.models.decoder import Decoder
        from chexmix_cli.core.models.quantized import packing, quantized_state
        from chexmix_cli.core.weights.formats.packed import packed_state

        settings, vocabulary, place = self.settings.decoder, self.settings.vocabulary, torch.device(device)

        def make() -> Decoder:
            made = Decoder(settings)
            if quantize is not None:
                made.quantize(quantize, place)
            return made

        source = self.decoder_source()
        read = functools.partial(read_state, decoder_slices(settings), source, dtype=dtype)
        if quantize is None:
            state = read(device=place)
        else:
            assert self.decoder_file is not None, "there is a source of it"
            identity = {
                "decoder": [file_sha256(part) for part in network_files(self.decoder_file)],
                "settings": to_dict(settings),
                "dtype": str(dtype),
                "packing": packing(quantize, place),
            }
            convert = functools.partial(quantized_state, quantize=quantize, device=place)
            held = packed_state(identity, functools.partial(read, device="cpu", convert=convert))
            state = {name: value.to(place) for name, value in held.items()}
        decoder = filled(without_memory(make), state)
        if self.sees_whole_image:
            decoder.image_span = ImageSpan(vocabulary.begin_image, vocabulary.tokens_per_image)
        return decoder

    def load_vqgan(self, device: torch.device | str, dtype: torch.dtype) -> Vqgan:
        """Return the image tokenizer in eval mode; errors as :meth:`load_decoder`."""
        from chexmix_cli.core.models.vqgan import Vqgan

        settings = self.settings.vqgan
        if self.vqgan_file is not None and self.vqgan_file.name == files.VQGAN_CHECKPOINT:
            _LOG.info(
                "%s is pickled: `chexmix weights convert` makes a safer file that loads faster", self.vqgan_file.name
            )
        return load_module(lambda: Vqgan(settings), same_name_slices, self.vqgan_source(), device=device, dtype=dtype)

    def load_text_tokenizer(self) -> TextTokenizer | None:
        """Return the text tokenizer, or None if the directory has none."""
        from chexmix_cli.core.text.tokenizer import TextTokenizer

        for file in files.tokenizer_files(self.path):
            refuse_placeholder(file)
        return TextTokenizer.load(self.path, self.settings.vocabulary)

    def load_drafts(self) -> DraftIndex | None:
        """Return what drafts of reports are taken from, or None if the directory has nothing of the kind.

        Raises:
            WeightsError: if its file is damaged, or of another text tokenizer.
        """
        from chexmix_cli.core.weights.draft_index import DraftIndex

        if self.drafts_file is None:
            return None
        return DraftIndex.load(
            self.drafts_file, tokenizer=self.text_tokenizer_hash, vocabulary=self.settings.vocabulary
        )

    def decoder_source(self) -> TensorSource:
        """Return the decoder's tensors; WeightsError if there are none, or in a form that is not read."""
        path = self.decoder_file
        if path is None:
            problem = foreign_decoder(self.path)
            raise problem or WeightsError(f"has no decoder ({files.MODEL_FILE})", where=str(self.path))
        return unwrap(open_safetensors(path, self._headers), decoder_slices(self.settings.decoder))

    def refuse_foreign_decoder(self) -> None:
        """Raise WeightsError if there is a decoder in a form that is not read: what follows would leave it out."""
        problem = foreign_decoder(self.path)
        if problem is not None:
            raise problem

    def vqgan_source(self) -> TensorSource:
        """Return the image tokenizer's tensors; WeightsError if there are none."""
        path = self.vqgan_file
        if path is None:
            raise WeightsError(
                f"has no image tokenizer ({files.VQGAN_FILE} or {files.VQGAN_CHECKPOINT})", where=str(self.path)
            )
        return self.vqgan_source_of(path)

    def vqgan_source_of(self, path: Path) -> TensorSource:
        """Return the tensors of one image tokenizer file, of either kind."""
        source = VqganCheckpoint(path) if path.name == files.VQGAN_CHECKPOINT else open_safetensors(path)
        return unwrap(source, self.vqgan_slices())

    def vqgan_slices(self) -> list[Slice]:
        """Return every tensor an image tokenizer of these settings has."""
        from chexmix_cli.core.models.meta import on_meta_device
        from chexmix_cli.core.models.vqgan import Vqgan

        with on_meta_device():
            return same_name_slices(Vqgan(self.settings.vqgan))

    def _existing(self, name: str) -> Path | None:
        path = self.path / name
        return path if path.is_file() else None


def open_weights(name_or_dir: str | Path | None) -> WeightsDir:
    """Return the weights of a model of ``weights.toml``, a weights directory, or a training run's folder.

    Args:
        name_or_dir: None is the embedded model. A string that is an entry's name means that entry; write ``./name``
            for a folder of the same name. A folder with ``model/`` in it, and no weights of its own, is a run.

    Raises:
        WeightsError: if there is no such thing, or its settings cannot be told.
    """
    return WeightsDir(*locate(name_or_dir))


def locate(name_or_dir: str | Path | None) -> tuple[Path, ModelEntry | None]:
    """Return the directory :func:`open_weights` would open, and the entry of ``weights.toml`` it belongs to, if any."""
    name_or_dir = EMBEDDED if name_or_dir is None else name_or_dir
    entries = registry()
    if isinstance(name_or_dir, str) and name_or_dir in entries:
        entry = entries[name_or_dir]
        if not holds_weights(entry.directory):
            fetch = f"chexmix weights fetch {entry.name} --accept-licence"
            hint = fetch if entry.source == "hub" else "install chexmix again"
            raise WeightsError(f"the weights {entry.name!r} are not here", where=str(entry.directory), hint=hint)
        return entry.directory, entry
    path = Path(name_or_dir).expanduser()
    if not path.is_dir():
        problem = "is a file" if path.exists() else "no such weights"
        expected = f"a weights directory, a run, or one of {', '.join(entries)}"
        near = nearest_hint(str(name_or_dir), entries)
        raise WeightsError(problem, where=str(name_or_dir), expected=expected, hint=near)
    if not holds_weights(path) and holds_weights(path / files.RUN_MODEL):
        path = path / files.RUN_MODEL
    owners = [entry for entry in entries.values() if entry.directory.is_dir() and entry.directory.samefile(path)]
    return path, owners[0] if owners else None
