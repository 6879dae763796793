"""Findings without a head: given the image, how much likelier a sentence that states one is than one that denies it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from chexmix_cli.core.data.labels import CHEXPERT_FINDINGS, FINDING_SETS, NIH_FINDINGS, NO_FINDING, finding_name
from chexmix_cli.core.errors import SettingsError
from chexmix_cli.core.infer.classification.heads import sigmoid
from chexmix_cli.core.infer.decoding.prefixes import NO_PREFIXES, PrefixStore
from chexmix_cli.core.infer.likelihood import ReportScorer
from chexmix_cli.core.models.decoder import Decoder
from chexmix_cli.core.text.tokenizer import TextTokenizer
from chexmix_cli.core.vocab import Vocabulary

#: Finding to the sentence that states it and the one that denies it.
Statements = Mapping[str, tuple[str, str]]

#: Findings whose name is not a noun phrase of a report.
_NOUNS = {
    "Effusion": "pleural effusion",
    "Infiltration": "infiltrate",
    "Pleural_Thickening": "pleural thickening",
    "Lung Opacity": "lung opacity",
    "Pleural Other": "other pleural abnormality",
    "Support Devices": "support device",
    "Mass": "lung mass",
    "Nodule": "lung nodule",
    "Edema": "pulmonary edema",
    "Hernia": "hiatal hernia",
}


def own_statements() -> dict[str, tuple[str, str]]:
    """Return our sentences for the findings of CheXpert and NIH, worded as the templates of ``core/text`` word them."""
    made = {NO_FINDING: ("No acute cardiopulmonary abnormality.", "The radiograph is abnormal.")}
    for name in dict.fromkeys((*CHEXPERT_FINDINGS, *NIH_FINDINGS)):
        noun = _NOUNS.get(name, name.lower())
        made.setdefault(name, (f"{noun[0].upper()}{noun[1:]} is present.", f"No {noun}."))
    return made


def read_statements(path: Path) -> dict[str, tuple[str, str]]:
    """Return the sentences of a JSON file: finding to two texts.

    Raises:
        SettingsError: if it cannot be read, or is of another form.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError(f"cannot be read ({error.strerror})", where=str(path)) from None
    except (ValueError, RecursionError):
        raise SettingsError("is not JSON", where=str(path), expected=_FORM) from None
    is_table = isinstance(values, dict) and bool(values)
    if not is_table or not all(_is_pair(pair) for pair in values.values()):
        raise SettingsError("is not a table of sentences", where=str(path), expected=_FORM)
    return {name: (present, absent) for name, (present, absent) in values.items()}


def chosen_statements(statements: Statements, wanted: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Return the sentences of findings, or of a set of them.

    Raises:
        SettingsError: if there are none for one of them.
    """
    asked = (name for one in wanted for name in FINDING_SETS.get(one, (one,)))
    names = dict.fromkeys(name if name in statements else finding_name(name) for name in asked)
    unknown = [name for name in names if name not in statements]
    if unknown:
        raise SettingsError(
            f"no sentences for {unknown[0]!r}",
            where="zero_shot.labels",
            expected=", ".join(statements),
            hint="zero_shot.statements names a file of your own",
        )
    return {name: statements[name] for name in names}


class ZeroShot:
    """Probabilities of findings from the likelihood of sentences.

    The probability is the softmax of two mean log-probabilities a token, which is the logistic function of their
    difference. It ranks images; it is not calibrated.

    Args:
        decoder: in eval mode.
        vocabulary: the model's ids.
        tokenizer: of the model.
        statements: finding to its two sentences.
        prefix: stands before each.
        batch_size: sentences read together, after an image that is read once.
        prefixes: images read before, which are not read again.
    """

    def __init__(
        self,
        decoder: Decoder,
        vocabulary: Vocabulary,
        tokenizer: TextTokenizer,
        statements: Statements,
        *,
        prefix: str,
        batch_size: int,
        prefixes: PrefixStore = NO_PREFIXES,
    ) -> None:
        self.names = tuple(statements)
        self._scorer = ReportScorer(decoder, vocabulary, minus="none", batch_size=batch_size, prefixes=prefixes)
        self._ids = [tokenizer.encode(prefix + text) for pair in statements.values() for text in pair]

    def probabilities(self, codes: Sequence[int]) -> NDArray[np.float64]:
        """Return the probability of each finding for one image's codes, (K,).

        Raises:
            VocabularyError: on codes that are none.
            ShapeError: if a sentence does not fit the decoder after the image.
            MachineError: if memory runs out.
        """
        score_K2 = np.array(self._scorer.score(codes, self._ids)).reshape(-1, 2)
        return sigmoid(score_K2[:, 0] - score_K2[:, 1])


_FORM = '{"Pneumonia": ["Pneumonia is present.", "No pneumonia."], ...}'


def _is_pair(pair: object) -> bool:
    return isinstance(pair, list) and len(pair) == 2 and all(isinstance(text, str) and text.strip() for text in pair)
