"""Decoding: prompts in, new token ids out. The engine knows ids only, no images and no text.

One call is one batch. The prompts are read in one pass (prefill) into a key-value cache: each once, and none that a
``PrefixStore`` knows. Every later pass reads the ids just chosen, and after each what a ``Drafter`` proposes. An id is
chosen after every one of them, as it would be without drafts; those after a rejected draft token are void, and the
cache is rolled back. So drafts change the number of passes, never the result. Rows that finish leave the batch. The
parts can change apart: ``Batch`` runs the decoder over cache, positions and masks, any number of new positions a pass;
``Chooser`` turns logits into ids; the loop here decides what is read next and when a row is done.

Shape letters: B rows still decoding, T positions of a pass, M choices, R ids to choose from, D hidden.
"""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

import torch
from torch import Tensor

from chexmix_cli.core.errors import VocabularyError, WeightsError
from chexmix_cli.core.infer.decoding.batch import Batch
from chexmix_cli.core.infer.decoding.constraints import Constraint
from chexmix_cli.core.infer.decoding.draft_length import DraftLength, PassCosts, pass_costs
from chexmix_cli.core.infer.decoding.drafts import Drafter
from chexmix_cli.core.infer.decoding.prefixes import NO_PREFIXES, PrefixStore, PromptPlan
from chexmix_cli.core.infer.decoding.sampling import Chooser, row_draws
from chexmix_cli.core.infer.decoding.static_batch import Recordings, StaticBatch
from chexmix_cli.core.infer.decoding.stats import EngineStats
from chexmix_cli.core.models.decoder import Decoder
from chexmix_cli.core.runtime import memory_errors
from chexmix_cli.core.settings.inference import DecodeSettings

OnToken = Callable[[int, int], None]
#: Positions of a pass where ``decode.draft_rows`` is not set: on a GPU, and the most where passes are measured.
_GPU_DRAFT_ROWS, _MOST_DRAFT_ROWS = 8, 32


class TokenGuard(Protocol):
    """Denies ids by what a row has said so far."""

    def denied(self, row: int, ahead: Sequence[int] = ()) -> Sequence[int]:
        """Return the ids that may not be next in the row of this prompt, were these ``ahead`` chosen first."""

    def push(self, row: int, token_id: int) -> None:
        """Take note of the id that was chosen."""


class PromptReader(Protocol):
    """Sees what a pass over the prompts shows besides what comes next."""

    @property
    def layers(self) -> Collection[int]:
        """Return the layers whose states it wants: 0 the token embeddings, then each block, the last one normed."""

    def read(self, layer: int, state_BTD: Tensor) -> None:
        """Take a layer's states of the prompts that have room for a token, aligned at their ends."""


class Finish(StrEnum):
    """Why a row stopped."""

    END = "end"
    """It chose an id that ends it: its last one."""
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
        pad: id that fills rows up to the longest; no token ever attends to it.
        constraints: what may be chosen and what ends a row, by the word of ``decode.vocabulary``.
        prefixes: prompts read before, which are not read again.

    Attributes:
        decoder, pad, constraints, prefixes: as given.
        stats: what the calls so far have cost.
        recordings: passes recorded for a GPU, kept from call to call.
        costs: what passes cost by their positions; None until they are asked for (:meth:`draft_length`).
    """

    def __init__(
        self,
        decoder: Decoder,
        *,
        pad: int,
        constraints: Mapping[str, Constraint],
        prefixes: PrefixStore = NO_PREFIXES,
    ) -> None:
        self.decoder = decoder.eval()
        self.pad, self.constraints, self.prefixes = pad, constraints, prefixes
        self.stats = EngineStats()
        self.recordings = Recordings()
        self.costs: PassCosts | None = None

    @torch.inference_mode()
    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        settings: DecodeSettings,
        *,
        seed: int | Sequence[int] = 0,
        on_token: OnToken | None = None,
        guard: TokenGuard | None = None,
        drafter: Drafter | None = None,
        on_prompts: PromptReader | None = None,
    ) -> list[Generation]:
        """Return what follows each prompt, in order.

        Args:
            prompts: token ids of any lengths, decoded together as one batch.
            settings: bounds, vocabulary, temperature, top-p.
            seed: of sampled ids, one for all prompts or one for each; a row's sample depends on it and on its own
                prompt only.
            on_token: called with the prompt's index and each new id as soon as it is chosen.
            guard: is asked for further ids to deny before each choice, row by row; None denies nothing.
            drafter: proposes what follows, for as many positions a pass as ``settings.draft_rows`` says; None: no
                drafts.
            on_prompts: is given the states of the layers it wants, if any prompt has room for a token.

        Raises:
            VocabularyError: if a prompt is empty or holds an id the decoder has no row for.
            WeightsError: if the decoder's output is not finite.
            MachineError: if memory runs out.
        """
        seeds = [seed] * len(prompts) if isinstance(seed, int) else seed
        rows = [
            self._row(index, prompt, settings, own)
            for index, (prompt, own) in enumerate(zip(prompts, seeds, strict=True))
        ]
        live = [row for row in rows if row.finish is None]
        if live:
            with memory_errors("decoding reports", "--set input.batch_size=1"):
                layers = () if on_prompts is None else on_prompts.layers
                plan = PromptPlan.make(self.decoder, [row.prompt for row in live], layers, self.prefixes)
                decoding = _Decoding(self, live, plan, settings, on_token=on_token, guard=guard, drafter=drafter)
                self.stats.add(decoding.run(on_prompts))
        return [row.generation() for row in rows]

    def draft_length(self, settings: DecodeSettings) -> DraftLength:
        """Return what says how many draft tokens passes of one call read; the first time it may measure passes."""
        if settings.draft_rows is not None:
            return DraftLength(settings.draft_rows)
        if self.decoder.embedding.weight.device.type != "cpu":
            # There a pass reads the weights whatever its positions, and each width is recorded by itself.
            return DraftLength(_GPU_DRAFT_ROWS)
        self.costs = self.costs or pass_costs(self.decoder)
        return DraftLength(_MOST_DRAFT_ROWS, self.costs)

    def _row(self, index: int, prompt: Sequence[int], settings: DecodeSettings, seed: int) -> _Row:
        num_rows = self.decoder.settings.num_rows
        if len(prompt) == 0 or min(prompt) < 0 or max(prompt) >= num_rows:
            found = f"ids {min(prompt)}..{max(prompt)}" if len(prompt) else "no ids"
            raise VocabularyError(f"a prompt with {found}", where=f"prompt {index}", expected=f"ids 0..{num_rows - 1}")
        room = max(0, self.decoder.settings.max_positions - len(prompt))
        limit = min(settings.max_new_tokens, room)
        row = _Row(index, prompt, limit, Finish.LENGTH if settings.max_new_tokens <= room else Finish.ROOM)
        if limit == 0:
            row.finish = Finish.ROOM
        elif settings.temperature > 0:
            row.draws = row_draws(seed, prompt, limit)
        return row


class _Decoding:
    """One call of :meth:`Engine.generate`, over the rows that have room for a token, in the order of its plan."""

    def __init__(
        self,
        engine: Engine,
        rows: list[_Row],
        plan: PromptPlan,
        settings: DecodeSettings,
        *,
        on_token: OnToken | None,
        guard: TokenGuard | None,
        drafter: Drafter | None,
    ) -> None:
        self._decoder, self._pad, self._prefixes = engine.decoder, engine.pad, engine.prefixes
        self._plan, self._rows = plan, [rows[index] for index in plan.order]
        self._on_token, self._guard = on_token, guard
        self._drafter, self._length = drafter, None if drafter is None else engine.draft_length(settings)
        self._constraint = engine.constraints[settings.vocabulary]
        self._chooser = Chooser(self._constraint, settings, self._decoder.embedding.weight.device)
        limit = max(row.limit for row in rows)
        drafts_apart = drafter is not None and len(rows) > 1
        is_on_gpu = self._decoder.embedding.weight.device.type == "cuda"
        make_batch = functools.partial(StaticBatch, recordings=engine.recordings) if is_on_gpu else Batch
        self._batch: Batch = make_batch(
            self._decoder,
            [row.prompt for row in self._rows],
            max_new_tokens=limit,
            pad=engine.pad,
            num_spare=spare_places(limit) if drafts_apart else 0,
            known=plan.known,
        )
        read, reused = (
            sum(len(row.prompt) for row in some) for some in (self._rows[: plan.num_read], self._rows[plan.num_read :])
        )
        self._stats = EngineStats(num_reports=len(rows), num_prompt_tokens=read, num_reused_tokens=reused)

    def run(self, on_prompts: PromptReader | None = None) -> EngineStats:
        """Decode until every row is done; return what it cost."""
        stats, live = self._stats, self._rows
        drafts: list[list[int]] = [[] for _ in live]
        started = time.perf_counter()
        state_BTD, first_token_s = self._read_prompts(on_prompts), None
        passes_of_prompts = self._batch.num_passes
        while True:
            agreed = self._choose(state_BTD, live, drafts)
            first_token_s = first_token_s or time.perf_counter()
            staying = [place for place, row in enumerate(live) if row.finish is None]
            if not staying:
                break
            void = [state_BTD.shape[1] - 1 - agreed[place] for place in staying]
            if len(staying) < len(live):
                live = [live[place] for place in staying]
                self._batch.keep(staying)
            if any(void):
                self._batch.take_back(void)
            drafts = self._draft(live)
            state_BTD = self._read(live, drafts)
        stats.prefill_s, stats.decode_s = first_token_s - started, time.perf_counter() - first_token_s
        stats.num_passes = self._batch.num_passes - passes_of_prompts
        stats.num_attended = self._batch.num_attended
        stats.num_decoded_tokens = sum(len(row.token_ids) - 1 for row in self._rows)
        return stats

    def _read_prompts(self, on_prompts: PromptReader | None) -> Tensor:
        """Return the final states of the prompts' last positions, (B, 1, D); leave what was read to the store."""
        layers, plan = () if on_prompts is None else on_prompts.layers, self._plan
        last_B1D, states = self._batch.read_prompts(layers)
        for row in range(plan.num_read):
            own = {layer: state_BTD[row] for layer, state_BTD in states.items()}
            prefix = self._batch.prompt_read(row, last_B1D[row, 0], own)
            self._prefixes.keep(self._decoder, self._rows[row].prompt, prefix)
        if on_prompts is not None:
            place_B = [plan.order.index(row) for row in range(len(plan.order))]
            for layer, state_BTD in states.items():
                on_prompts.read(layer, state_BTD[place_B])
        return last_B1D

    def _choose(self, state_BTD: Tensor, live: list[_Row], drafts: list[list[int]]) -> list[int]:
        """Choose what follows each row's last token and each of its drafts; return how many drafts were right."""
        behind = [
            (row, draft[:count]) for row, draft in zip(live, drafts, strict=True) for count in range(len(draft) + 1)
        ]
        guard = self._guard
        # Only here does a pass wait for the device.
        choices = self._chooser.choose(
            self._decoder.logits(_behind_drafts(state_BTD, drafts), self._chooser.rows),
            [len(row.token_ids) + len(ahead) for row, ahead in behind],
            [row.draw(len(ahead)) for row, ahead in behind],
            denied=None if guard is None else [guard.denied(row.index, ahead) for row, ahead in behind],
        )
        agreed, start = [], 0
        for row, draft in zip(live, drafts, strict=True):
            own = choices[start : start + len(draft) + 1]
            start += len(own)
            right = num_agreed(draft, [token_id for token_id, _ in own])
            if self._length is not None:
                self._length.note(len(draft), right)
            agreed.append(self._accept(row, own[: right + 1]) - 1)
        self._stats.num_drafted += sum(map(len, drafts))
        self._stats.num_accepted += sum(agreed)
        return agreed

    def _accept(self, row: _Row, choices: Sequence[tuple[int, float]]) -> int:
        """Take choices into a row until one ends it; return how many it took."""
        before = len(row.token_ids)
        for token_id, logprob in choices:
            row.accept(token_id, logprob, self._constraint.ends)
            if self._guard is not None:
                self._guard.push(row.index, token_id)
            if self._on_token is not None:
                self._on_token(row.index, token_id)
            if row.finish is not None:
                break
        return len(row.token_ids) - before

    def _draft(self, live: list[_Row]) -> list[list[int]]:
        """Return what is proposed for each row: no more than fits, nothing after an id that cannot be chosen."""
        if self._drafter is None or self._length is None:
            return [[] for _ in live]
        most = self._length.best(len(live))
        if len(live) > 1:
            # Where rows diverge, each needs slots of the cache to its own end.
            most = min(most, self._batch.room - max(row.num_missing for row in live))
        if most < 1:
            return [[] for _ in live]
        rows, ends = self._constraint.rows, self._constraint.ends
        drafts = []
        for row in live:
            # The last token of a row is chosen, never read.
            count = min(most, row.num_missing - 1)
            found = list(self._drafter.draft([*row.prompt, *row.token_ids], count))[:count] if count else []
            stop = next((n for n, token_id in enumerate(found) if not rows.start <= token_id < rows.stop), len(found))
            stop = next((n + 1 for n, token_id in enumerate(found[:stop]) if token_id in ends), stop)
            drafts.append(found[:stop])
        return drafts

    def _read(self, live: list[_Row], drafts: list[list[int]]) -> Tensor:
        width = max(map(len, drafts))
        padded = [
            [row.token_ids[-1], *draft, *[self._pad] * (width - len(draft))]
            for row, draft in zip(live, drafts, strict=True)
        ]
        return self._batch.read(torch.tensor(padded))


def spare_places(limit: int) -> int:
    """Return the slots of the cache beyond their tokens that rows decoded together get for drafts, by their limit.

    More would seldom be used; where they run out, rows go on without drafts.
    """
    return limit // 2


def num_agreed(draft: Sequence[int], chosen: Sequence[int]) -> int:
    """Return how many draft tokens are accepted, up to the first that is rejected: the choice there still counts."""
    pairs = zip(draft, chosen, strict=False)
    return next((place for place, (one, other) in enumerate(pairs) if one != other), len(draft))


def _behind_drafts(state_BTD: Tensor, drafts: list[list[int]]) -> Tensor:
    """Return the states (M, D) of each row's last token and drafts, without the padding after them."""
    if all(len(draft) + 1 == state_BTD.shape[1] for draft in drafts):
        return state_BTD.flatten(0, 1)
    return torch.cat([state_TD[: len(draft) + 1] for state_TD, draft in zip(state_BTD, drafts, strict=True)])


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

    @property
    def num_missing(self) -> int:
        return self.limit - len(self.token_ids)

    def draw(self, ahead: int) -> float:
        return self.draws[len(self.token_ids) + ahead] if self.draws else 0.0

    def accept(self, token_id: int, logprob: float, ends: Sequence[int]) -> None:
        if not math.isfinite(logprob):
            raise WeightsError(
                f"the decoder's output is {logprob}",
                where=f"new token {len(self.token_ids)}",
                hint="chexmix weights check",
            )
        self.token_ids.append(token_id)
        self.logprobs.append(logprob)
        if token_id in ends:
            self.finish = Finish.END
        elif len(self.token_ids) == self.limit:
            self.finish = self.finish_at_limit

    def generation(self) -> Generation:
        assert self.finish is not None, "asked for before the row was done"
        return Generation(self.token_ids, self.logprobs, self.finish)
