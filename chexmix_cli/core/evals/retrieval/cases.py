"""Pairs to look at: those whose report was found first, and those whose report was found last."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from chexmix_cli.core.evals.metrics.ranks import Scores
from chexmix_cli.core.evals.result import Case
from chexmix_cli.core.evals.retrieval.protocol import Pairs


def chosen_pairs(ranks: Sequence[float | None], count: int) -> dict[str, list[int]]:
    """Return the indices of the best and of the worst ranks, by heading; equal ranks in the order of the pairs."""
    ranked = sorted((rank, place) for place, rank in enumerate(ranks) if rank is not None)
    worst = sorted(ranked, key=lambda one: (-one[0], one[1]))
    few = min(count, len(ranked) // 2)
    return {
        "best by rank of the own report": [place for _, place in ranked[:few]],
        "worst by rank of the own report": [place for _, place in worst[:few]],
    }


def retrieval_cases(
    pairs: Pairs,
    ranks: Sequence[float | None],
    scores: Scores,
    pictures: Mapping[int, bytes],
    chosen: Mapping[str, Sequence[int]],
) -> list[Case]:
    """Return the cases of chosen indices.

    Args:
        pairs: all pairs.
        ranks: of each pair's report, given its image.
        scores: of all images against all reports.
        pictures: PNG of the image at an index, as far as there are any.
        chosen: indices by heading, from :func:`chosen_pairs`.
    """
    cases = []
    for heading, places in chosen.items():
        for place in places:
            first = int(scores.tile(slice(place, place + 1), slice(None))[0].argmax())
            texts = {"rank": f"{ranks[place]:g}", "first found": pairs.ids[first]}
            if pairs.texts is not None:
                texts |= {"own report": pairs.texts[place], "first found report": pairs.texts[first]}
            picture = {"image": pictures[place]} if place in pictures else {}
            cases.append(Case(id=pairs.ids[place], group=heading, texts=texts, pictures=picture))
    return cases
