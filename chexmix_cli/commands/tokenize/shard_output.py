"""``tokenize -o``: records become rows of a shard set; what finished shards hold is skipped."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from chexmix_cli.commands.records.parts import Part, numbered, own, refuse_repeats
from chexmix_cli.core.errors import DataError, Reason
from chexmix_cli.library.films import Film
from chexmix_cli.library.jobs.job import Job, Record
from chexmix_cli.library.opened import OpenModel

_LOG = logging.getLogger("chexmix")

#: Of a record, what its line in the index keeps; the rest is the same for all and stands in the header.
_INDEX_FIELDS = ("status", "study", "view", "notes", "other_images", "error")
_LINE_TEXTS = ("split", "patient", "study", "view")


@dataclass(frozen=True, slots=True)
class Beside:
    """What a manifest line says besides the image.

    Attributes:
        fields: split, patient, study and view, as far as given.
        labels: finding to 1, 0, -1 or None.
        report: findings and impression, or None.
    """

    fields: dict[str, str]
    labels: dict[str, int | None]
    report: str | None


class ShardOutput:
    """Writes the shard set of one run.

    Args:
        folder: of the set; with several parts, of all of them.
        model: that encodes.
        rows: inputs a shard covers.
        part: the share of the inputs that is ours.
    """

    def __init__(self, folder: Path, model: OpenModel, rows: int, part: Part) -> None:
        from chexmix_cli.core.data.shards import ShardIdentity, ShardWriter
        from chexmix_cli.core.data.shards.merge import new_list_hash

        vocabulary = model.weights.settings.vocabulary
        self.identity = ShardIdentity(
            codebook_hash=model.weights.codebook_hash,
            preset=model.preset.intensity,
            preset_hash=model.preset.hash,
            dtype=str(model.image_dtype).removeprefix("torch."),
            device=model.device.type,
            views=model.input.views,
            frame=model.input.frame,
            num_codes=vocabulary.num_codes,
            tokens_per_image=vocabulary.tokens_per_image,
            num_text=vocabulary.num_text,
            text_tokenizer_hash=model.weights.text_tokenizer_hash,
            rows=rows,
            part=part.index,
            num_parts=part.count,
        )
        self._part = part
        self._writer = ShardWriter(folder / (part.folder_name or ""), self.identity)
        self.num_finished, self.num_begun = self._writer.num_finished, self._writer.num_begun
        self.settle = self._writer.settle
        self._list_hash, self._num_listed = new_list_hash(), 0
        self._text_tokenizer = model.weights.load_text_tokenizer()
        self._has_warned = False

    def select(
        self, jobs: Iterator[Job[Film]], on_finished: Callable[[Job[Film], Record], None]
    ) -> Iterator[Job[Film]]:
        """Yield the jobs that are still to be done; ``on_finished`` gets those that shards have, with their entry."""
        listed = self._listed(refuse_repeats(numbered(jobs)))
        for job in own(listed, self._part):
            entry = self._writer.skip(job.order, job.id)
            if entry is None:
                yield self._checked(job)
            else:
                on_finished(job, entry)

    def take(self, job: Job[Film], record: Record) -> Record:
        """Put a record into its shard; return what stdout gets of it: shard and row instead of codes."""
        from chexmix_cli.core.data.shards.journal import ShardTokens

        try:
            beside = beside_of(job.line or {})
        except DataError:  # which is the record's error already
            beside = Beside({}, {}, None)
        kept = {name: record[name] for name in _INDEX_FIELDS if record.get(name) is not None}
        fields = {"id": record["id"], **kept, **beside.fields}
        tokens = None
        if record["status"] == "ok":
            tokens = ShardTokens(record["codes"], self._encode(beside.report), beside.labels)
        name, row = self._writer.add(job.order, fields, tokens)
        shown = {key: value for key, value in record.items() if key != "codes"}
        return shown | {"shard": name, "row": row}

    def close(self) -> None:
        """Write what is left, and the end of the set."""
        self._writer.finish(num_listed=self._num_listed, list_hash=self._list_hash.hexdigest())

    def _listed(self, jobs: Iterator[Job[Film]]) -> Iterator[Job[Film]]:
        from chexmix_cli.core.data.shards.merge import update_list_hash

        for job in jobs:
            update_list_hash(self._list_hash, job.id)
            self._num_listed += 1
            yield job

    def _checked(self, job: Job[Film]) -> Job[Film]:
        """Return the job, or one that fails with what is wrong with its line."""
        line = job.line or {}
        try:
            beside_of(line)
            if "codes" in line:
                self._check_origin(line)
        except DataError as error:
            found = error

            def fail() -> Film:
                raise found

            return replace(job, prepare=fail, can_travel=False)
        return job

    def _check_origin(self, line: Record) -> None:
        """Raise DataError unless codes that came in are known to be like those made here."""
        for name in ("codebook_hash", "preset_hash"):
            if line.get(name) != getattr(self.identity, name):
                raise DataError(
                    Reason.WRONG_TOKENS,
                    f"codes of {name} {line.get(name)}",
                    expected=f"{name} {getattr(self.identity, name)}, as the shards have",
                    hint="run `chexmix tokenize` with the same --weights and --image-preset",
                )

    def _encode(self, report: str | None) -> list[int]:
        if report is None:
            return []
        if self._text_tokenizer is None:
            if not self._has_warned:
                _LOG.warning("the weights have no text tokenizer: reports are left out of the shards")
                self._has_warned = True
            return []
        return self._text_tokenizer.encode(report)


def beside_of(line: Mapping[str, Any]) -> Beside:
    """Return what a manifest line says besides its image.

    Raises:
        DataError: on a value that a manifest must not have.
    """
    from chexmix_cli.core.data.manifest import ManifestRow, checked_fields

    found = checked_fields(line)
    row = ManifestRow(id="", file=Path(), findings=found.get("findings"), impression=found.get("impression"))
    fields = {name: found[name] for name in _LINE_TEXTS if found.get(name) is not None}
    return Beside(fields, found["labels"], row.report)
