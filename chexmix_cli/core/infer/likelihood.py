"""How probable reports are given an image: the retrieval score that needs no embedding.

The image prefix ``I_s image I_E T_s`` is read once; every candidate report goes on from it. Exact: the numbers are
those of :mod:`scoring` on the whole documents.

B candidates of a batch, T tokens of the longest one, D hidden.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from chexmix_cli.core.errors import VocabularyError
from chexmix_cli.core.infer.decoding.prefixes import NO_PREFIXES, Prefix, PrefixStore, read_prefix, states_behind
from chexmix_cli.core.infer.scoring import target_logprobs
from chexmix_cli.core.models.decoder import Decoder
from chexmix_cli.core.runtime import memory_errors
from chexmix_cli.core.settings.retrieval import Minus
from chexmix_cli.core.vocab import Vocabulary


class ReportScorer:
    """Scores reports by their mean log-probability a token, its end not counted, over the whole vocabulary.

    Args:
        decoder: in eval mode.
        vocabulary: the model's ids.
        minus: what is subtracted from each score: nothing; the report's own score given an image of mask tokens
            (``hidden``: the model was trained on hidden images); or without an image, after ``T_s`` (``alone``).
        batch_size: reports read together.
        prefixes: images read before, which are not read again.
    """

    def __init__(
        self,
        decoder: Decoder,
        vocabulary: Vocabulary,
        *,
        minus: Minus,
        batch_size: int,
        prefixes: PrefixStore = NO_PREFIXES,
    ) -> None:
        self._decoder, self._vocabulary, self._prefixes = decoder, vocabulary, prefixes
        self._minus, self._batch_size = minus, batch_size
        #: Baselines met before: candidates of several images are often the same.
        self._baselines: dict[tuple[int, ...], float] = {}

    @torch.inference_mode()
    def score(self, codes: Sequence[int], reports: Sequence[Sequence[int]]) -> list[float]:
        """Return the score of each report given one image.

        Args:
            codes: of the image.
            reports: token ids of the candidates.

        Raises:
            VocabularyError: if a report is empty or holds a special id, or on codes that are none.
            ShapeError: if a report does not fit the decoder after an image; nothing is cut.
            MachineError: if memory runs out.
        """
        self._check(reports)
        # Equal reports are read once: they have equal scores, whatever batches they would have been in.
        unique = list(dict.fromkeys(tuple(report) for report in reports))
        found = self._behind(self._vocabulary.report_prompt([int(code) for code in codes]), unique)
        baselines = [0.0] * len(unique) if self._minus == "none" else self._baselines_of(unique)
        of_report = {one: score - baseline for one, score, baseline in zip(unique, found, baselines, strict=True)}
        return [of_report[tuple(report)] for report in reports]

    def _check(self, reports: Sequence[Sequence[int]]) -> None:
        vocabulary = self._vocabulary
        specials = {vocabulary.begin_image, vocabulary.end_image, vocabulary.begin_text}
        for index, report in enumerate(reports):
            if not len(report) or specials & set(report):
                what = "a special id" if len(report) else "no tokens"
                raise VocabularyError(
                    f"a report with {what}", where=f"report {index}", expected="one or more ordinary ids"
                )
            vocabulary.check_text(list(report))

    def _baselines_of(self, reports: Sequence[tuple[int, ...]]) -> list[float]:
        new = [report for report in reports if report not in self._baselines]
        vocabulary = self._vocabulary
        prefix = hidden_prompt(vocabulary) if self._minus == "hidden" else [vocabulary.begin_text]
        self._baselines |= dict(zip(new, self._behind(prefix, new), strict=True))
        return [self._baselines[report] for report in reports]

    def _behind(self, prefix: list[int], reports: Sequence[Sequence[int]]) -> list[float]:
        """Return the mean log-probability of each report given a prefix that is read once."""
        if not reports:
            return []
        with memory_errors("scoring reports", "--set likelihood.batch_size=1"):
            read = read_prefix(self._decoder, prefix, self._prefixes)
            # Reports of like length together: the rest of a batch is padding.
            order = sorted(range(len(reports)), key=lambda index: len(reports[index]))
            scores = [0.0] * len(reports)
            for start in range(0, len(order), self._batch_size):
                places = order[start : start + self._batch_size]
                found = report_logprobs(
                    self._decoder, read, [reports[place] for place in places], pad=self._vocabulary.pad
                )
                for place, logprob_T in zip(places, found, strict=True):
                    scores[place] = float(logprob_T.double().mean())
        return scores


@torch.inference_mode()
def report_logprobs(decoder: Decoder, prefix: Prefix, reports: Sequence[Sequence[int]], *, pad: int) -> list[Tensor]:
    """Return log p of each token of reports, (T,) float32, given a prompt that has been read.

    Args:
        decoder: that has read it.
        prefix: the prompt.
        reports: token ids, one at least in each.
        pad: id that fills short reports at their ends; it has no influence.
    """
    longest = max(map(len, reports))
    # One copy to the device, for all rows.
    padded = [[*report, *[pad] * (longest - len(report))] for report in reports]
    token_ids_BT = torch.tensor(padded, device=prefix.last_D.device)
    state_BTD = prefix.last_D.expand(len(reports), 1, -1)
    if longest > 1:
        # The last token of the longest is predicted, never read.
        state_BTD = torch.cat((state_BTD, states_behind(decoder, prefix, token_ids_BT[:, :-1])), dim=1)
    return [
        target_logprobs(decoder, state_TD[: len(report)], token_ids_T[: len(report)])
        for report, state_TD, token_ids_T in zip(reports, state_BTD, token_ids_BT, strict=True)
    ]


def hidden_prompt(vocabulary: Vocabulary) -> list[int]:
    """Return the prompt of an image of which nothing is seen: mask tokens."""
    hidden = [vocabulary.mask] * vocabulary.tokens_per_image
    return [vocabulary.begin_image, *hidden, vocabulary.end_image, vocabulary.begin_text]
