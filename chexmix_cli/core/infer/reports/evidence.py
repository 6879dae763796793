"""What each sentence of a report depends on: how much less probable it is when parts of the image are hidden.

The model was trained to read images with hidden positions, so a report can be scored again with a block of the image's
codes replaced by the mask token: what a sentence loses is that block's evidence for it. A sentence that loses nothing
with the whole image hidden is said from habit.

What variants have in common is read once. The whole image has been read for the report, and an image of which nothing
is seen is the same for all films. Where an image is read from its first code to its last, a variant is the film itself
down to its first hidden code: blocks side by side are sequences of one batch behind that. Where positions see the
whole image, all of it differs.

Shape letters: Y X blocks, N sentences, V variants of the image, T tokens of the report.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from chexmix_cli.core.infer.decoding.prefixes import NO_PREFIXES, PrefixStore, read_prefix, states_behind
from chexmix_cli.core.infer.likelihood import hidden_prompt, report_logprobs
from chexmix_cli.core.infer.reports.writer import WrittenReport
from chexmix_cli.core.infer.scoring import target_logprobs
from chexmix_cli.core.models.decoder import Decoder
from chexmix_cli.core.runtime import memory_errors
from chexmix_cli.core.settings.inference import ExplainSettings
from chexmix_cli.core.text.labelling.labeller import sentence_spans
from chexmix_cli.core.text.tokenizer import TextTokenizer
from chexmix_cli.core.vocab import Vocabulary, grid_side


@dataclass(frozen=True, kw_only=True, slots=True)
class SentenceEvidence:
    """One sentence.

    Attributes:
        text: the sentence, without white space at its ends.
        logprob: mean log-probability of its tokens as they were chosen, in nats.
        lowest: the least probable token's text and log-probability.
        drop: nats a token lost with the whole image hidden; below 0 where it becomes more probable.
        drop_blocks: the same, each block hidden alone, (Y, X).
        is_text_prior_only: the drop is less than ``explain.least_drop``.
        least_block: ``explain.least_block``.
    """

    text: str
    logprob: float
    lowest: tuple[str, float]
    drop: float
    drop_blocks: NDArray[np.float64]
    is_text_prior_only: bool
    least_block: float = 0.0

    @property
    def badge(self) -> str:
        """Return in plain words what the sentence rests on, with the number behind it."""
        what = "text alone" if self.is_text_prior_only else "the image"
        return f"rests on {what} ({self.drop:.2f} nats a token lost without the image)"

    @property
    def evident_blocks(self) -> NDArray[np.float64]:
        """Return ``drop_blocks`` with 0 for all that chance may have done, (Y, X).

        Nothing rests on a block that makes a sentence more probable when it is hidden, so such gains show how far
        chance goes: what loses less than twice the largest of them, or less than ``explain.least_block``, is not shown,
        nor is anything of a sentence that rests on text alone.
        """
        noise = 2 * max(0.0, -float(self.drop_blocks.min(initial=0.0)))
        is_shown_YX = (self.drop_blocks >= max(noise, self.least_block)) & (not self.is_text_prior_only)
        return np.where(is_shown_YX, self.drop_blocks, 0.0)

    def to_dict(self) -> dict[str, Any]:
        """Return the plain form, numbers rounded to what a record needs."""
        return {
            "text": self.text,
            "logprob": round(self.logprob, 4),
            "lowest": {"token": self.lowest[0], "logprob": round(self.lowest[1], 4)},
            "drop": round(self.drop, 4),
            "drop_blocks": np.round(self.drop_blocks, 4).tolist(),
            "text_prior_only": self.is_text_prior_only,
            "badge": self.badge,
            "is_located": bool(self.evident_blocks.any()),
        }


@torch.inference_mode()
def find_evidence(
    decoder: Decoder,
    tokenizer: TextTokenizer,
    codes: Sequence[int],
    report: WrittenReport,
    settings: ExplainSettings,
    *,
    prefixes: PrefixStore = NO_PREFIXES,
) -> list[SentenceEvidence]:
    """Return the evidence of every sentence of a report, in order; none for an empty report.

    Args:
        decoder: the model that wrote it, in eval mode.
        tokenizer: of the model.
        codes: of the image, raster order.
        report: what was written.
        settings: blocks, threshold, batch size.
        prefixes: images read before, which are not read again.

    Raises:
        MachineError: if memory runs out.
    """
    tokens_N = sentence_tokens(report, tokenizer)
    if not tokens_N:
        return []
    vocabulary = tokenizer.vocabulary
    blocks = block_positions(vocabulary.tokens_per_image, settings.blocks)
    with memory_errors("scoring sequences", "--set explain.batch_size=1"):
        film = _Film(decoder, vocabulary, codes, prefixes)
        scored = film.whole_and_hidden(report.report_ids)
        side = grid_side(len(blocks))
        # Blocks side by side have the most in front of them in common.
        rows = [blocks[start : start + side] for start in range(0, len(blocks), side)]
        for row in rows:
            for start in range(0, side, settings.batch_size):
                scored += film.without_blocks(row[start : start + settings.batch_size], report.report_ids)
    values_VT = np.stack([one.double().cpu().numpy() for one in scored])
    found = []
    for text, places in tokens_N:
        mean_V = values_VT[:, places].mean(axis=1)
        drop_V = mean_V[0] - mean_V[1:]
        lowest = min(places, key=lambda place: report.logprobs[place])
        found.append(
            SentenceEvidence(
                text=text,
                logprob=float(np.mean([report.logprobs[place] for place in places])),
                lowest=(tokenizer.decode([report.report_ids[lowest]]), report.logprobs[lowest]),
                drop=float(drop_V[0]),
                drop_blocks=drop_V[1:].reshape(side, -1),
                is_text_prior_only=bool(drop_V[0] < settings.least_drop),
                least_block=settings.least_block,
            )
        )
    return found


def sentence_tokens(report: WrittenReport, tokenizer: TextTokenizer) -> list[tuple[str, list[int]]]:
    """Return the sentences of a report with the indices of their tokens in ``report_ids``.

    A token belongs to the sentence that its last letter is in; ids that are not text belong to none.
    """
    if report.text is None:
        return []
    stream, end = tokenizer.stream(), 0
    ends: dict[int, int] = {}
    for place, token_id in enumerate(report.report_ids):
        if token_id < tokenizer.vocabulary.num_text:
            end += len(stream.push(token_id))
            ends[place] = end
    starts, found = [start for start, _ in sentence_spans(report.text)], []
    # White space between two sentences goes with the one before it.
    for start, stop in itertools.pairwise([*starts, len(report.text)]):
        places = [place for place, end in ends.items() if start < end <= stop]
        if places:
            found.append((report.text[start:stop].strip(), places))
    return found


def block_positions(num_positions: int, blocks: int) -> list[list[int]]:
    """Return the image positions of each block, in raster order of blocks; at most a block a position.

    Args:
        num_positions: of a square image, raster order.
        blocks: a side.
    """
    side = grid_side(num_positions)
    edges = np.array_split(np.arange(side), min(blocks, side))
    return [[int(y) * side + int(x) for y in rows for x in columns] for rows in edges for columns in edges]


class _Film:
    """An image and its variants, with what has been read of them.

    Args:
        decoder: in eval mode.
        vocabulary: the model's ids.
        codes: of the image, raster order.
        prefixes: images read before.
    """

    def __init__(self, decoder: Decoder, vocabulary: Vocabulary, codes: Sequence[int], prefixes: PrefixStore) -> None:
        self._decoder, self._vocabulary, self._prefixes = decoder, vocabulary, prefixes
        self._prompt = vocabulary.report_prompt(list(codes))
        self._read = read_prefix(decoder, self._prompt, prefixes)

    def whole_and_hidden(self, report_ids: Sequence[int]) -> list[Tensor]:
        """Return log p of a report's tokens, (T,), given the image, and given one of which nothing is seen."""
        hidden = read_prefix(self._decoder, hidden_prompt(self._vocabulary), self._prefixes)
        return [
            report_logprobs(self._decoder, prefix, [report_ids], pad=self._vocabulary.pad)[0]
            for prefix in (self._read, hidden)
        ]

    def without_blocks(self, blocks: Sequence[Sequence[int]], report_ids: Sequence[int]) -> list[Tensor]:
        """Return log p of a report's tokens, (T,), given the image without each of some blocks."""
        # Of an image that is seen whole, every position differs; behind ``I_s`` alone there is nothing to be saved.
        first = 1 + min(min(block) for block in blocks)
        known = 0 if self._decoder.image_span is not None or first == 1 else first
        variants = [[*_hidden(self._prompt, block, self._vocabulary.mask), *report_ids] for block in blocks]
        token_ids_BT = torch.tensor(variants, device=self._read.last_D.device)
        # The last token is predicted, never read.
        state_BTD = states_behind(self._decoder, self._read if known else None, token_ids_BT[:, known:-1], length=known)
        own = slice(-len(report_ids), None)
        return [
            target_logprobs(self._decoder, state_TD[own], token_ids_T[own])
            for state_TD, token_ids_T in zip(state_BTD, token_ids_BT, strict=True)
        ]


def _hidden(prompt: Sequence[int], positions: Sequence[int], mask: int) -> list[int]:
    """Return a prompt with image positions replaced; ``I_s`` stands in front of them."""
    found = list(prompt)
    for position in positions:
        found[position + 1] = mask
    return found
