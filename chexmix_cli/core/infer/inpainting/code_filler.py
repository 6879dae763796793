"""Hidden image codes filled in by the decoder. It knows codes only, no pixels (``restorer.py`` has those).

A decoder reads ``I_s image`` with the mask token at hidden positions; its output at the token before a position is its
distribution of the code there. What that distribution has seen:

| | single | autoregressive | iterative |
|---|---|---|---|
| visible codes before the position | yes | yes | yes |
| hidden codes before it | mask tokens | as filled | filled ones as filled in earlier rounds, mask tokens else |
| codes after it, causal model | no | no | no |
| codes after it, bidirectional model | visible ones | visible ones | visible ones, and filled ones |

A causal model thus never uses what is visible to the right and below, whatever the strategy; a model trained with
``masking.attention = "bidirectional"`` does. No position ever sees the code that is hidden there: it is not in the
input at all.

Shape letters: B images, P image positions, T positions read, D hidden, K codebook size, E code size, M positions
chosen together, C of them in one chunk.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from chexmix_cli.core.errors import ShapeError
from chexmix_cli.core.infer.decoding.sampling import draws_on, row_draws, sample
from chexmix_cli.core.kernels.backend import uses_triton
from chexmix_cli.core.kernels.expected_code.op import expected_code
from chexmix_cli.core.kernels.restricted_head.op import choose_row
from chexmix_cli.core.models.decoder import Decoder
from chexmix_cli.core.runtime import memory_errors
from chexmix_cli.core.settings.inpainting import FillSettings
from chexmix_cli.core.vocab import Vocabulary

#: Positions whose logits exist together: (chunk x 8192) float32 is 16 MiB for the released codebook.
_CHUNK = 512


@dataclass(frozen=True, slots=True)
class Filled:
    """Images with their hidden codes filled.

    Attributes:
        codes_BP: all codes, int64 on the CPU; the visible ones as they came in.
        vectors_BPE: what the pixels are drawn from, float32 on the decoder's device: the codebook's vector of each
            code; with ``choice = "expected"``, where a code was hidden, the mean of all vectors by their probability.
    """

    codes_BP: Tensor
    vectors_BPE: Tensor


@dataclass(frozen=True, slots=True)
class _Chosen:
    """The choice at M positions: codes, their probabilities, vectors to draw from."""

    code_M: Tensor
    prob_M: Tensor
    vector_ME: Tensor


class CodeFiller:
    """Fills hidden codes with one model.

    Args:
        decoder: on its device, in its dtype; put into eval mode.
        vocabulary: the model's ids.
        codebook_KE: the image tokenizer's code vectors.
    """

    def __init__(self, decoder: Decoder, vocabulary: Vocabulary, codebook_KE: Tensor) -> None:
        self.decoder = decoder.eval()
        self.vocabulary = vocabulary
        self.device = decoder.embedding.weight.device
        self._codebook_KE = codebook_KE.detach().float().to(self.device)

    @torch.inference_mode()
    def fill(
        self, codes_BP: Tensor, is_hidden_BP: Tensor, settings: FillSettings, *, seed: int = 0, sample_number: int = 0
    ) -> Filled:
        """Return the images with their hidden codes filled.

        Args:
            codes_BP: codes, int64; those at hidden positions are not looked at.
            is_hidden_BP: True where a code is to be filled.
            settings: strategy and choice; ``samples`` is left to the caller.
            seed: of sampled codes; a draw depends on it, on the image's visible codes and on ``sample_number`` only.
            sample_number: which of several samples of the same images this is.

        Raises:
            ShapeError: if the shapes differ, or are not those of the model's images.
            VocabularyError: if a visible code is out of range.
            MachineError: if memory runs out.
        """
        num_positions = self.vocabulary.tokens_per_image
        if codes_BP.shape != is_hidden_BP.shape or codes_BP.ndim != 2 or codes_BP.shape[1] != num_positions:
            raise ShapeError(
                f"codes {tuple(codes_BP.shape)}, hidden {tuple(is_hidden_BP.shape)}",
                where="inpainting",
                expected=f"(B, {num_positions}) both",
            )
        visible_BP = self.vocabulary.codes_to_ids(codes_BP.masked_fill(is_hidden_BP, 0))
        run = _Run(self, visible_BP, is_hidden_BP, settings, seed, sample_number)
        with memory_errors("filling hidden codes", "--set input.batch_size=1"):
            strategies = {
                "single": run.single,
                "autoregressive": run.autoregressive if self.decoder.image_span is None else run.one_by_one,
                "iterative": run.iterative,
            }
            strategies[settings.strategy]()
        return run.filled()

    def states(self, token_ids_BT: Tensor) -> Tensor:
        """Return the states (B, P, D) whose logits are those of the codes, of whole images read in one pass."""
        state_BTD: Tensor = self.decoder(token_ids_BT)
        return state_BTD[:, :-1]

    def choose(self, state_MD: Tensor, settings: FillSettings, draws_M: Tensor | None) -> _Chosen:
        """Return a choice for each state; of the head only the image rows are computed, a chunk at a time."""
        rows = slice(self.vocabulary.image_start, self.vocabulary.image_stop)
        if settings.choice != "sample" and uses_triton(self.device):
            weight_KD, bias_K = self.decoder.head.weight[rows], self.decoder.head.bias[rows]
            if settings.choice == "best":
                best = choose_row(state_MD, weight_KD, bias_K)
                return _Chosen(best.row_M, best.logprob_M.exp(), self._codebook_KE[best.row_M])
            temperature, codebook_KE = settings.temperature, self._codebook_KE
            mean = expected_code(state_MD, weight_KD, bias_K, codebook_KE, temperature=temperature)
            return _Chosen(mean.code_M, mean.prob_M, mean.vector_ME)
        parts = []
        for start in range(0, len(state_MD), _CHUNK):
            logits_CK = self.decoder.logits(state_MD[start : start + _CHUNK], rows).float()
            if draws_M is None:
                code_C = logits_CK.argmax(dim=1)
            else:
                draws_C = draws_M[start : start + _CHUNK]
                code_C = sample(logits_CK, draws_C, temperature=settings.temperature, top_p=settings.top_p)
            prob_C = logits_CK.softmax(dim=1).gather(1, code_C[:, None])[:, 0]
            if settings.choice == "expected":
                vector_CE = (logits_CK / settings.temperature).softmax(dim=1) @ self._codebook_KE
            else:
                vector_CE = self._codebook_KE[code_C]
            parts.append((code_C, prob_C, vector_CE))
        return _Chosen(*(torch.cat(part) for part in zip(*parts, strict=True)))

    def vectors(self, codes_BP: Tensor) -> Tensor:
        """Return the codebook's vectors (B, P, E) of codes."""
        return self._codebook_KE[codes_BP.to(self.device)]


class _Run:
    """One batch being filled."""

    def __init__(
        self,
        filler: CodeFiller,
        visible_BP: Tensor,
        is_hidden_BP: Tensor,
        settings: FillSettings,
        seed: int,
        sample_number: int,
    ) -> None:
        self._filler, self._settings = filler, settings
        self._vocabulary, device = filler.vocabulary, filler.device
        self._is_hidden_BP = is_hidden_BP.to(device)
        begin_B1 = torch.full((len(visible_BP), 1), self._vocabulary.begin_image)
        masked_BP = visible_BP.masked_fill(is_hidden_BP, self._vocabulary.mask)
        #: What the decoder reads: ``I_s``, then the codes' ids, mask ids where none is filled yet.
        self._token_ids_BT = torch.cat((begin_B1, masked_BP), dim=1).to(device)
        self._vectors_BPE = filler.vectors(self._vocabulary.ids_to_codes(visible_BP))
        self._draws_BP: Tensor | None = None
        if settings.choice == "sample":
            draws = [row_draws(seed, [*row, sample_number], visible_BP.shape[1]) for row in self._token_ids_BT.tolist()]
            self._draws_BP = draws_on(device, draws)

    def single(self) -> None:
        """Fill every hidden code from one pass."""
        if self._is_hidden_BP.any():
            self._put(self._is_hidden_BP, self._choose(self._is_hidden_BP, self._filler.states(self._token_ids_BT)))

    def iterative(self) -> None:
        """Fill in rounds: each pass proposes all that is still hidden, the most probable of it stays."""
        num_hidden = self._is_hidden_BP.sum(dim=1).tolist()
        is_open_BP = self._is_hidden_BP.clone()
        for number in range(1, self._settings.rounds + 1):
            share = self._share_left(number / self._settings.rounds)
            left = [math.floor(count * share) for count in num_hidden]
            if not is_open_BP.any():
                return
            chosen = self._choose(is_open_BP, self._filler.states(self._token_ids_BT))
            prob_BP = torch.full(is_open_BP.shape, -1.0, device=is_open_BP.device)
            prob_BP[is_open_BP] = chosen.prob_M
            order_BP = prob_BP.argsort(dim=1, descending=True, stable=True)
            is_kept_BP = torch.zeros_like(is_open_BP)
            for row, (order_P, num_open) in enumerate(zip(order_BP, is_open_BP.sum(dim=1).tolist(), strict=True)):
                # At least one a round, so that no pass is for nothing.
                count = min(num_open, max(1, num_open - left[row]))
                is_kept_BP[row, order_P[:count]] = True
            is_kept_BP &= is_open_BP
            self._put(is_kept_BP, chosen, among_BP=is_open_BP)
            is_open_BP &= ~is_kept_BP

    def autoregressive(self) -> None:
        """Fill from left to right with a key-value cache: each token is read once. For causal models."""
        num_rows, num_tokens = self._token_ids_BT.shape
        cache = self._filler.decoder.new_cache(num_rows, num_tokens - 1)
        for position in self._hidden_positions():
            new_BT = self._token_ids_BT[:, cache.length : position + 1]
            state_BD = self._filler.decoder(new_BT, cache=cache)[:, -1]
            self._put_at(position, state_BD)

    def one_by_one(self) -> None:
        """Fill from left to right with a pass over the whole image for each: what ``autoregressive`` must equal.

        Also the way of bidirectional models: a new code changes what every position sees, so nothing can be cached.
        """
        for position in self._hidden_positions():
            self._put_at(position, self._filler.states(self._token_ids_BT)[:, position])

    def filled(self) -> Filled:
        """Return the codes and vectors."""
        return Filled(self._vocabulary.ids_to_codes(self._token_ids_BT[:, 1:]).cpu(), self._vectors_BPE)

    def _hidden_positions(self) -> list[int]:
        """Return the positions hidden in any image, ascending."""
        found: list[int] = self._is_hidden_BP.any(dim=0).nonzero()[:, 0].tolist()
        return found

    def _share_left(self, done: float) -> float:
        if done >= 1:
            return 0.0
        return math.cos(math.pi * done / 2) if self._settings.schedule == "cosine" else 1 - done

    def _put_at(self, position: int, state_BD: Tensor) -> None:
        """Fill one position of the images in which it is hidden."""
        is_here_BP = torch.zeros_like(self._is_hidden_BP)
        is_here_BP[:, position] = self._is_hidden_BP[:, position]
        draws_M = None if self._draws_BP is None else self._draws_BP[is_here_BP.to(self._draws_BP.device)]
        self._put(is_here_BP, self._filler.choose(state_BD[is_here_BP[:, position]], self._settings, draws_M))

    def _choose(self, is_open_BP: Tensor, state_BPD: Tensor) -> _Chosen:
        draws_M = None if self._draws_BP is None else self._draws_BP[is_open_BP.to(self._draws_BP.device)]
        return self._filler.choose(state_BPD[is_open_BP], self._settings, draws_M)

    def _put(self, is_kept_BP: Tensor, chosen: _Chosen, among_BP: Tensor | None = None) -> None:
        """Put choices, made at ``among_BP`` (default: just there), to the positions that are kept."""
        is_kept_M = slice(None) if among_BP is None else is_kept_BP[among_BP]
        self._token_ids_BT[:, 1:][is_kept_BP] = self._vocabulary.codes_to_ids(chosen.code_M[is_kept_M])
        self._vectors_BPE[is_kept_BP] = chosen.vector_ME[is_kept_M]
