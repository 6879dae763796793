"""From image codes to reports: prompts, decoding, the cut, the text."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from chexmix_cli.core.errors import SettingsError
from chexmix_cli.core.infer.decoding.drafts import Drafter
from chexmix_cli.core.infer.decoding.engine import Generation, PromptReader
from chexmix_cli.core.infer.decoding.prefixes import NO_PREFIXES, PrefixStore
from chexmix_cli.core.infer.reports.engine import ReportFinish, report_engine, report_finish
from chexmix_cli.core.infer.reports.phrase_guard import PhraseGuard
from chexmix_cli.core.models.decoder import Decoder
from chexmix_cli.core.settings.inference import DecodeSettings
from chexmix_cli.core.text.comparisons import PHRASES, find_comparisons
from chexmix_cli.core.text.header import Header
from chexmix_cli.core.text.tokenizer import TextStream, TextTokenizer
from chexmix_cli.core.vocab import Vocabulary

OnText = Callable[[int, str], None]


@dataclass(frozen=True, kw_only=True, slots=True)
class WrittenReport:
    """The report of one image.

    Attributes:
        token_ids: every new id, nothing cut.
        report_ids: ids in front of the first end (``T_s``) or next document (``I_s``).
        text: what ``report_ids`` say, or None if the model has no text tokenizer.
        num_not_text: how many of ``report_ids`` are not text ids and so not in ``text``; only
            ``decode.vocabulary = "all"`` can choose such.
        finish: why decoding stopped.
        logprob: log-probability of all new ids.
        logprobs: of each of ``report_ids``.
        comparisons: words of the text that claim a comparison with an earlier study, unless they are allowed.
        against_header: words of the text that contradict what is known of the film, unless they are allowed.
        held_to: attributes of the header that the text was kept from contradicting.
    """

    token_ids: list[int]
    report_ids: list[int]
    text: str | None
    num_not_text: int
    finish: ReportFinish
    logprob: float
    logprobs: list[float]
    comparisons: list[str]
    against_header: list[str] = field(default_factory=list)
    held_to: list[str] = field(default_factory=list)


class ReportWriter:
    """Writes reports with one model.

    Args:
        decoder: on its device, in its dtype.
        vocabulary: the model's ids.
        tokenizer: the model's text tokenizer, or None: then reports are ids only.
        prefixes: prompts read before, which are not read again.

    Attributes:
        engine: the engine that decodes, with its ``stats``.
    """

    def __init__(
        self,
        decoder: Decoder,
        vocabulary: Vocabulary,
        tokenizer: TextTokenizer | None,
        *,
        prefixes: PrefixStore = NO_PREFIXES,
    ) -> None:
        self.vocabulary, self.tokenizer = vocabulary, tokenizer
        self._guard: PhraseGuard | None = None
        ordinary_ids = None if tokenizer is None else _ordinary_ids(tokenizer)
        self.engine = report_engine(decoder, vocabulary, ordinary_ids=ordinary_ids, prefixes=prefixes)

    def write(
        self,
        codes: Sequence[Sequence[int]],
        settings: DecodeSettings,
        *,
        seed: int | Sequence[int] = 0,
        on_text: OnText | None = None,
        drafter: Drafter | None = None,
        headers: Sequence[Header] | None = None,
        on_prompts: PromptReader | None = None,
    ) -> list[WrittenReport]:
        """Return the report of each image, all decoded in one batch.

        Args:
            codes: the codes of each image, raster order.
            settings: how to decode.
            seed: of sampled tokens, one for all images or one for each.
            on_text: called with the image's index and the next piece of its report's text, as soon as it is decoded;
                the pieces of one image joined are its ``text``. Needs a text tokenizer.
            drafter: proposes what follows in a report (``decode.draft_rows``); None: no drafts.
            headers: what is known of each film besides its codes; None: nothing.
            on_prompts: is given the prompts' hidden states of the layers it wants, as in :meth:`Engine.generate`.

        Raises:
            SettingsError: if comparisons are to be blocked and there is no text tokenizer.
            VocabularyError: if an image has not ``tokens_per_image`` codes, or one out of range.
            WeightsError, MachineError: as :meth:`Engine.generate`.
        """
        prompts = [self.vocabulary.report_prompt([int(code) for code in image]) for image in codes]
        streams = None
        if on_text is not None and self.tokenizer is not None:
            streams = _Streams(self.tokenizer, len(prompts), on_text)
        known = [Header()] * len(prompts) if headers is None else list(headers)
        generations = self.engine.generate(
            prompts,
            settings,
            seed=seed,
            on_token=None if streams is None else streams.push,
            guard=self._guard_of(known, settings),
            drafter=drafter,
            on_prompts=on_prompts,
        )
        if streams is not None:
            streams.finish()
        return [self._report(one, header, settings) for one, header in zip(generations, known, strict=True)]

    def _guard_of(self, headers: Sequence[Header], settings: DecodeSettings) -> PhraseGuard | None:
        """Return the guard of a batch, or None where nothing is kept out."""
        if settings.comparisons == "block" and self.tokenizer is None:
            raise SettingsError("is 'block'", where="decode.comparisons", expected="weights with a text tokenizer")
        always = PHRASES if settings.comparisons == "block" else ()
        rows = [(*always, *(header.against_phrases if settings.header == "block" else ())) for header in headers]
        if self.tokenizer is None or not any(rows):
            return None
        self._guard = self._guard or PhraseGuard(self.tokenizer)
        self._guard.reset(rows)
        return self._guard

    def _report(self, generation: Generation, header: Header, settings: DecodeSettings) -> WrittenReport:
        report_ids = self.vocabulary.cut_report(generation.token_ids)
        text_ids = [token_id for token_id in report_ids if token_id < self.vocabulary.num_text]
        text = None if self.tokenizer is None else self.tokenizer.decode(text_ids)
        return WrittenReport(
            token_ids=generation.token_ids,
            report_ids=report_ids,
            text=text,
            num_not_text=len(report_ids) - len(text_ids),
            finish=report_finish(generation, self.vocabulary),
            logprob=generation.logprob,
            logprobs=generation.logprobs[: len(report_ids)],
            comparisons=[] if text is None or settings.comparisons == "allow" else find_comparisons(text),
            against_header=[] if text is None or settings.header == "allow" else header.contradictions(text),
            held_to=list(header.against) if text is not None and settings.header == "block" else [],
        )


class _Streams:
    """Gives out each report's text as its ids arrive, up to the cut."""

    def __init__(self, tokenizer: TextTokenizer, count: int, on_text: OnText) -> None:
        self._vocabulary, self._on_text = tokenizer.vocabulary, on_text
        self._open: dict[int, TextStream] = {row: tokenizer.stream() for row in range(count)}

    def push(self, row: int, token_id: int) -> None:
        stream = self._open.get(row)
        if stream is None:
            return
        if token_id in (self._vocabulary.begin_text, self._vocabulary.begin_image):
            self._give(row, self._open.pop(row).finish())
        elif token_id < self._vocabulary.num_text:
            self._give(row, stream.push(token_id))

    def finish(self) -> None:
        for row, stream in self._open.items():
            self._give(row, stream.finish())

    def _give(self, row: int, piece: str) -> None:
        if piece:
            self._on_text(row, piece)


def _ordinary_ids(tokenizer: TextTokenizer) -> list[int]:
    return [token_id for token_id in range(tokenizer.vocabulary.num_text) if tokenizer.token_bytes(token_id)]
