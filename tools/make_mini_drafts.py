"""Make the draft index of the embedded model from reports that its sentence templates write.

    python tools/make_mini_drafts.py
    python tools/renew_sha256.py

Drawn anew, from no data set: about as many of each source's labels as the embedded model was trained on. The same
templates and text tokenizer give the same file; a test compares.
"""

from __future__ import annotations

import argparse
import random
import sys
from collections.abc import Iterator
from pathlib import Path

from chexmix_cli.core.settings.inference import DraftSettings
from chexmix_cli.core.text.phrases import NO_FINDING, WORDINGS
from chexmix_cli.core.text.places import SIDES, ZONES, Place
from chexmix_cli.core.text.templates import UNIVERSES, write_report
from chexmix_cli.core.weights import open_weights
from chexmix_cli.core.weights.draft_index import DraftIndex
from chexmix_cli.core.weights.files import DRAFTS_FILE
from chexmix_cli.core.weights.hub.registry import EMBEDDED, registry

NUM_REPORTS = 6000
OPACITY = "Lung Opacity"
#: Sources, their share of the reports, about that of training, and the findings drawn from.
SOURCES = {
    "kermany": (0.36, ((NO_FINDING,), ("Pneumonia", "Bacterial"), ("Pneumonia", "Viral"))),
    "rsna_normal": (0.32, ((NO_FINDING,),)),
    "nih14": (0.27, ()),
    "hannover": (0.05, (("COVID-19",),)),
}
_PLACES = [Place(side, zone) for side in SIDES for zone in ZONES]


def reports(seed: int = 0) -> Iterator[str]:
    """Yield the texts, as the model writes them: findings and impression with their headings."""
    rng = random.Random(seed)
    weights = [share for share, _ in SOURCES.values()]
    alone = sorted(set(UNIVERSES["nih14"]) & set(WORDINGS))
    for _ in range(NUM_REPORTS):
        source = rng.choices(list(SOURCES), weights)[0]
        sets = SOURCES[source][1]
        labels = (
            rng.choice(sets) if sets else (rng.sample(alone, rng.choice((1, 1, 2, 3))) if rng.random() < 0.5 else ())
        )
        child = source == "kermany" or rng.random() < 0.05
        findings, impression = write_report(
            labels or (NO_FINDING,),
            universe=UNIVERSES[source],
            view=rng.choice(("PA", "AP")) if source != "kermany" else "AP",
            age_group="child" if child else "adult",
            rng=rng,
            places={OPACITY: rng.sample(_PLACES, rng.choice((1, 2)))} if OPACITY in labels else {},
        )
        yield f"FINDINGS: {findings}\nIMPRESSION: {impression}"


def make() -> DraftIndex:
    """Return the index."""
    weights = open_weights(EMBEDDED)
    tokenizer, digest = weights.load_text_tokenizer(), weights.text_tokenizer_hash
    assert tokenizer is not None
    assert digest is not None
    ids = enumerate(tokenizer.encode(text) for text in reports())
    return DraftIndex.build(ids, weights.settings.vocabulary, DraftSettings(), tokenizer=digest)


def main(arguments: list[str] | None = None) -> int:
    """Write the file; return the exit code."""
    folder = registry()[EMBEDDED].directory
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, default=folder / DRAFTS_FILE)
    output = parser.parse_args(arguments).output
    index = make()
    index.save(output)
    print(f"{output}: {len(index)} contexts, {output.stat().st_size / 1024:.0f} KiB", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
