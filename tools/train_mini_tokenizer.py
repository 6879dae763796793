"""Train the text tokenizer of the embedded model on the train reports of its manifest and a glossary of our own.

    python tools/train_mini_tokenizer.py manifest.jsonl -o chexmix_cli/assets/chexmix-mini/tokenizer.json

The template reports alone have fewer merges than rows; the glossary spends the rest on words that real reports use, so
that fine-tuning on them finds useful tokens. The same manifest gives the same file.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from chexmix_cli.core.data.manifest import read_manifest
from chexmix_cli.core.errors import ChexmixError, TrainingError
from chexmix_cli.core.text.tokenizer_training import train_tokenizer

#: Words of chest radiology beyond the templates; each counts twice, the fewest times that a merge is made for.
GLOSSARY = """
the of is and are in to with at for from on or no not has been was were be this that it as by there
left right bilateral upper lower middle lobe base basilar apex apical perihilar hilar hilum costophrenic angle
mild moderate severe small large minimal trace stable unchanged interval increased decreased new prior compared
lungs heart mediastinum mediastinal silhouette contours aorta aortic tortuous calcified pulmonary vasculature vascular
congestion interstitial markings prominent opacity opacities patchy linear scarring granuloma granulomatous
diaphragm hemidiaphragm elevated osseous structures bony thorax rib ribs fracture fractures spine thoracic degenerative
changes catheter line tube tip terminates projects over pacemaker sternotomy wires clips
limits acute chronic disease process evidence focal size normal enlarged upper limits again seen noted visualized
comparison indication technique two views lateral portable chest cough fever pain shortness of breath
"""


def main(arguments: list[str] | None = None) -> int:
    """Train and write; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("manifest", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--num-text", type=int, default=1024, help="text rows of the model, specials included")
    options = parser.parse_args(arguments)
    try:
        reports = [row.report for row in read_manifest(options.manifest, split="train") if row.report]
        if not reports:
            raise TrainingError("no train row has a report", where=str(options.manifest))
        glossary = [f" {word}" for word in GLOSSARY.split()] * 2
        unused = train_tokenizer([*reports, *glossary], options.num_text, options.output)
    except ChexmixError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"{options.output}: {options.num_text} ids from {len(reports)} reports, {unused} unused", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
