"""Decoding: prompts in, new token ids out. The engine knows ids only, no images and no text.

One call is one batch. The prompts are read in one pass (prefill) into a key-value cache; every later pass reads the
ids just chosen. Rows that finish leave the batch. The parts can change apart: ``Batch`` runs the decoder over cache,
positions and masks, any number of new positions a pass; ``Chooser`` turns logits into ids; the loop here decides what
is read next and when a row is done.

Shape letters: B rows still decoding, D hidden.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

import torch

from chexmix_cli.core.errors import VocabularyError, WeightsError
from chexmix_cli.core.infer.batch import Batch
from chexmix_cli.core.infer.constraints import constrain
from chexmix_cli.core.infer.sampling import Chooser, row_draws
from chexmix_cli.core.infer.stats import EngineStats
from chexmix_cli.core.models.decoder import Decoder
from chexmix_cli.core.runtime import memory_errors
from chexmix_cli.core.settings.inference import DecodeSettings
from chexmix_cli.core.vocab import Vocabulary

OnToken = Callable[[int, int], None]


class TokenGuard(Protocol):
    """Denies ids by what a row has said so far."""

    def denied(self, row: int) -> Sequence[int]:
        """Return the ids that may not be next in the row of this prompt."""

    def push(self, row: int, token_id: int) -> None:
        """Take note of the id that was chosen."""


class Finish(StrEnum):
    """Why a row stopped."""

    END = "end"
    """It chose ``T_s``."""
    NEXT_IMAGE = "next_image"
    """It chose the next document's ``I_s``; with ``decode.vocabulary = "all"`` that ends nothing, as released."""
    LENGTH = "length"
    """It reached ``decode.max_new_tokens``."""
    ROOM = "room"
    """The decoder has no position left; if the prompt alone fills them, there is no new token at all."""


@dataclass(frozen=True, slots=True)
class Generation:
    """What followed one prompt.

    Attributes:
        token_ids: every new id in order, nothing cut: an id that ended the row is the last one.
        logprobs: log-probability of each, among the ids that could be chosen, at temperature 1.
        finish: why the row stopped.
    """

    token_ids: list[int]
    logprobs: list[float]
    finish: Finish

    @property
    def logprob(self) -> float:
        """Return the log-probability of all new ids together."""
        return math.fsum(self.logprobs)


class Engine:
    """Decodes with one decoder.

    Args:
        decoder: on its device, in its dtype; put into eval mode.
        vocabulary: the model's ids.
        ordinary_ids: ids that stand for text, from the text tokenizer (see ``constraints.constrain``).

    Attributes:
        stats: what the calls so far have cost.
    """

    def __init__(self, decoder: Decoder, vocabulary: Vocabulary, *, ordinary_ids: Iterable[int] | None = None) -> None:
        self.decoder = decoder.eval()
        self.vocabulary = vocabulary
        self.stats = EngineStats()
        self._ordinary_ids = None if ordinary_ids is None else frozenset(ordinary_ids)

    @torch.inference_mode()
    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        settings: DecodeSettings,
        *,
        seed: int = 0,
        on_token: OnToken | None = None,
        guard: TokenGuard | None = None,
    ) -> list[Generation]:
        """Return what follows each prompt, in order.

        Args:
            prompts: token ids of any lengths, decoded together as one batch.
            settings: bounds, vocabulary, temperature, top-p.
            seed: of sampled ids; a row's sample depends on it and on its own prompt only.
            on_token: called with the prompt's index and each new id as soon as it is chosen.
            guard: is asked for further ids to deny before each choice, row by row; None denies nothing.

        Raises:
            VocabularyError: if a prompt is empty or holds an id the decoder has no row for.
            WeightsError: if the decoder's output is not finite.
            MachineError: if memory runs out.
        """
        rows = [self._row(index, prompt, settings, seed) for index, prompt in enumerate(prompts)]
        live = [row for row in rows if row.finish is None]
        if live:
            with memory_errors("decoding reports", "--set input.batch_size=1"):
                self._decode(live, settings, on_token, guard)
        return [row.generation() for row in rows]

    def _row(self, index: int, prompt: Sequence[int], settings: DecodeSettings, seed: int) -> _Row:
        if len(prompt) == 0 or min(prompt) < 0 or max(prompt) >= self.vocabulary.num_rows:
            found = f"ids {min(prompt)}..{max(prompt)}" if len(prompt) else "no ids"
            raise VocabularyError(
                f"a prompt with {found}", where=f"prompt {index}", expected=f"ids 0..{self.vocabulary.num_rows - 1}"
            )
        room = max(0, self.decoder.settings.max_positions - len(prompt))
        limit = min(settings.max_new_tokens, room)
        row = _Row(index, prompt, limit, Finish.LENGTH if settings.max_new_tokens <= room else Finish.ROOM)
        if limit == 0:
            row.finish = Finish.ROOM
        elif settings.temperature > 0:
            row.draws = row_draws(seed, prompt, limit)
        return row

    def _decode(
        self, rows: list[_Row], settings: DecodeSettings, on_token: OnToken | None, guard: TokenGuard | None
    ) -> None:
        started = time.perf_counter()
        constraint = constrain(self.vocabulary, settings.vocabulary, self._ordinary_ids)
        chooser = Chooser(constraint, settings, self.decoder.embedding.weight.device)
        batch = Batch(
            self.decoder,
            [row.prompt for row in rows],
            max_new_tokens=max(row.limit for row in rows),
            pad=self.vocabulary.pad,
        )
        live, first_token = rows, None
        state_BD = batch.read_prompts()
        while True:
            logits_BR = self.decoder.logits(state_BD, chooser.rows)
            chosen_B, logprob_B = chooser.choose(
                logits_BR,
                [len(row.token_ids) for row in live],
                [row.next_draw() for row in live],
                denied=None if guard is None else [guard.denied(row.index) for row in live],
            )
            # The one place a pass waits for the device.
            for row, token_id, logprob in zip(live, chosen_B.tolist(), logprob_B.tolist(), strict=True):
                row.accept(token_id, logprob, constraint.ends, self.vocabulary)
                if guard is not None:
                    guard.push(row.index, token_id)
                if on_token is not None:
                    on_token(row.index, token_id)
            first_token = first_token or time.perf_counter()
            staying = [place for place, row in enumerate(live) if row.finish is None]
            if not staying:
                break
            if len(staying) < len(live):
                live, chosen_B = [live[place] for place in staying], chosen_B[staying]
                batch.keep(staying)
            state_BD = batch.read(chosen_B[:, None])[:, -1]
        self.stats.count(
            num_reports=len(rows),
            num_prompt_tokens=sum(len(row.prompt) for row in rows),
            num_decoded_tokens=sum(len(row.token_ids) - 1 for row in rows),
            num_passes=batch.num_passes - 1,
            prefill_s=first_token - started,
            decode_s=time.perf_counter() - first_token,
        )


@dataclass(slots=True)
class _Row:
    """One prompt and what has followed it so far."""

    index: int
    prompt: Sequence[int]
    limit: int
    finish_at_limit: Finish
    draws: list[float] = field(default_factory=list)
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    finish: Finish | None = None

    def next_draw(self) -> float:
        return self.draws[len(self.token_ids)] if self.draws else 0.0

    def accept(self, token_id: int, logprob: float, ends: Sequence[int], vocabulary: Vocabulary) -> None:
        if not math.isfinite(logprob):
            raise WeightsError(
                f"the decoder's output is {logprob}",
                where=f"new token {len(self.token_ids)}",
                hint="chexmix weights verify",
            )
        self.token_ids.append(token_id)
        self.logprobs.append(logprob)
        if token_id in ends:
            self.finish = Finish.END if token_id == vocabulary.begin_text else Finish.NEXT_IMAGE
        elif len(self.token_ids) == self.limit:
            self.finish = self.finish_at_limit

    def generation(self) -> Generation:
        assert self.finish is not None, "asked for before the row was done"
        return Generation(self.token_ids, self.logprobs, self.finish)
