"""Embeddings of reports: each layer's hidden states, averaged over the report's own tokens.

A report is read alone, ``T_s report``; what its states mean does not depend on an image. Shape letters: B reports,
T positions of the longest one, D hidden, L layers asked for.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from chexmix_cli.core.errors import VocabularyError
from chexmix_cli.core.infer.embeddings import wanted_layers
from chexmix_cli.core.models.decoder import Decoder
from chexmix_cli.core.runtime import memory_errors
from chexmix_cli.core.vocab import Vocabulary


@torch.inference_mode()
def text_embeddings(
    decoder: Decoder, vocabulary: Vocabulary, reports: Sequence[Sequence[int]], *, layers: Sequence[int] | None = None
) -> Tensor:
    """Return the embeddings of reports, (B, L, D) float32 on the CPU.

    Args:
        decoder: in eval mode.
        vocabulary: the model's ids.
        reports: the token ids of each report, ``T_s`` not among them; all in one batch.
        layers: as of ``image_embeddings``.

    Raises:
        VocabularyError: if a report is empty, or holds an id that is not a text id.
        SettingsError: if there is no such layer.
        ShapeError: if a report does not fit the decoder; nothing is cut.
        MachineError: if memory runs out.
    """
    wanted = wanted_layers(decoder, layers)
    if not reports:
        return torch.empty(0, len(wanted), decoder.settings.hidden_size)
    longest = max(len(report) for report in reports)
    sequences = []
    for index, report in enumerate(reports):
        if not len(report):
            raise VocabularyError("a report of no tokens", where=f"report {index}", expected="one or more")
        ids = [int(token_id) for token_id in vocabulary.check_text(list(report))]
        sequences.append([vocabulary.begin_text, *ids, *[vocabulary.pad] * (longest - len(ids))])
    token_ids_BT = torch.tensor(sequences, device=decoder.embedding.weight.device)
    means: dict[int, Tensor] = {}
    with memory_errors("embedding reports", "--set input.batch_size=1"):
        # Padding comes last and attention is causal: no report can see it.
        for layer, state_BTD in enumerate(decoder.layer_states(token_ids_BT)):
            if layer in wanted:
                rows = [
                    state_TD[1 : 1 + len(report)].mean(dim=0, dtype=torch.float32)
                    for state_TD, report in zip(state_BTD, reports, strict=True)
                ]
                means[layer] = torch.stack(rows).cpu()
            if layer == max(wanted):
                break
    return torch.stack([means[layer] for layer in wanted], dim=1)
