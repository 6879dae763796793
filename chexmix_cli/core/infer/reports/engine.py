"""The engine, for reports: which ids of the vocabulary may be chosen, and what ended a report."""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum

from chexmix_cli.core.errors import VocabularyError
from chexmix_cli.core.infer.decoding.constraints import Constraint
from chexmix_cli.core.infer.decoding.engine import Engine, Finish, Generation
from chexmix_cli.core.infer.decoding.prefixes import NO_PREFIXES, PrefixStore
from chexmix_cli.core.models.decoder import Decoder
from chexmix_cli.core.settings.inference import DecodedIds
from chexmix_cli.core.vocab import Vocabulary


class ReportFinish(StrEnum):
    """Why a report stopped."""

    END = "end"
    """It chose ``T_s``."""
    NEXT_IMAGE = "next_image"
    """It chose the next document's ``I_s``; with ``decode.vocabulary = "all"`` that ends nothing, as released."""
    LENGTH = "length"
    """It reached ``decode.max_new_tokens``."""
    ROOM = "room"
    """The decoder has no position left; if the prompt alone fills them, there is no new token at all."""


def report_engine(
    decoder: Decoder,
    vocabulary: Vocabulary,
    *,
    ordinary_ids: Iterable[int] | None = None,
    prefixes: PrefixStore = NO_PREFIXES,
) -> Engine:
    """Return an engine that writes reports.

    Args:
        decoder: on its device, in its dtype.
        vocabulary: the model's ids.
        ordinary_ids: as for :func:`constrain`.
        prefixes: prompts read before, which are not read again.
    """
    ordinary = None if ordinary_ids is None else frozenset(ordinary_ids)
    modes: tuple[DecodedIds, ...] = ("text", "all")
    constraints: dict[str, Constraint] = {mode: constrain(vocabulary, mode, ordinary) for mode in modes}
    return Engine(decoder, pad=vocabulary.pad, constraints=constraints, prefixes=prefixes)


def report_finish(generation: Generation, vocabulary: Vocabulary) -> ReportFinish:
    """Return why a report stopped, by the id that ended it."""
    if generation.finish is Finish.END and generation.token_ids[-1] == vocabulary.begin_image:
        return ReportFinish.NEXT_IMAGE
    return ReportFinish(generation.finish.value)


def constrain(vocabulary: Vocabulary, mode: DecodedIds, ordinary_ids: Iterable[int] | None = None) -> Constraint:
    """Return the constraint of a decoding mode.

    Args:
        vocabulary: the id table.
        mode: ``all`` leaves every row, and only ``T_s`` ends, as in the released pipeline; ``text`` leaves ordinary
            text ids and the two ends, ``T_s`` and the next document's ``I_s``.
        ordinary_ids: ids that stand for text, from the text tokenizer. Without one they are the ids in front of the
            image markers: both layouts we know (the released one and ``vocab.compact``) have the specials last.

    Raises:
        VocabularyError: if an ordinary id is not a text id.
    """
    if mode == "all":
        return Constraint(slice(0, vocabulary.num_rows), (), (vocabulary.begin_text,))
    if ordinary_ids is None:
        ordinary_ids = range(min(vocabulary.begin_image, vocabulary.end_image))
    ends = (vocabulary.begin_text, vocabulary.begin_image)
    allowed = {*ordinary_ids, *ends} - {vocabulary.end_image, vocabulary.mask, vocabulary.pad}
    first, last = min(allowed), max(allowed)
    if first < 0 or last >= vocabulary.num_text:
        raise VocabularyError(
            f"ordinary id {first if first < 0 else last}", expected=f"text ids below {vocabulary.num_text}"
        )
    denied = tuple(token_id for token_id in range(first, last + 1) if token_id not in allowed)
    return Constraint(slice(first, last + 1), denied, ends)
