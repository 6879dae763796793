"""Print what the defaults of retrieval were chosen by, from training rows: layers, and what a likelihood is less.

    python tools/choose_retrieval.py manifest.jsonl --rows 1000 --scored 80

Recall at 10 is that of the pair among the rows, the mean of both directions; ``labels`` is the share of the first ten
(five, of likelihoods) that have the query's labels, image to text, and image to image without the query itself.
"""

from __future__ import annotations

import argparse
import random
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from chexmix_cli.core.data.manifest import ManifestRow, read_manifest
from chexmix_cli.core.data.presets import resolve_preset
from chexmix_cli.core.infer.embeddings import image_embeddings
from chexmix_cli.core.infer.image_tokenizer import ImageTokenizer
from chexmix_cli.core.infer.likelihood import ReportScorer
from chexmix_cli.core.infer.manifest_images import encode_rows
from chexmix_cli.core.infer.retrieval.text_embeddings import text_embeddings
from chexmix_cli.core.settings.inference import InputSettings
from chexmix_cli.core.weights import open_weights

_BATCH = 16


def recalls(score_NN: Tensor, depths: tuple[int, ...]) -> list[tuple[float, ...]]:
    """Return the recall of the pair at each depth, reports by image and images by report."""
    own_N = score_NN.diag()
    ranks = [(score_NN > own_N[:, None]).sum(1) + 1, (score_NN > own_N[None]).sum(0) + 1]
    return [tuple(100 * float((rank_N <= depth).float().mean()) for depth in depths) for rank_N in ranks]


def same_labels(score_NN: Tensor, is_same_NN: Tensor, depth: int) -> float:
    """Return the share of each row's first columns that have its labels, in percent."""
    return 100 * float(is_same_NN.gather(1, score_NN.topk(depth, dim=1).indices).float().mean())


def label_matrix(rows: list[ManifestRow]) -> Tensor:
    """Return which rows state the same labels."""
    stated = [tuple(sorted((name, value) for name, value in row.labels.items() if value is not None)) for row in rows]
    numbers = {labels: number for number, labels in enumerate(dict.fromkeys(stated))}
    number_N = torch.tensor([numbers[labels] for labels in stated])
    return number_N[:, None] == number_N


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("manifest", type=Path)
    parser.add_argument("--weights", help="model; default: the embedded one")
    parser.add_argument("--rows", type=int, default=1000, help="training rows, drawn by seed 0")
    parser.add_argument("--scored", type=int, default=80, help="of these, rows whose reports are scored by likelihood")
    options = parser.parse_args()
    weights = open_weights(options.weights)
    settings = weights.settings
    rows = list(read_manifest(options.manifest, split="train"))
    random.Random(0).shuffle(rows)
    rows = [row for row in rows[: options.rows] if row.report is not None]
    tokenizer = ImageTokenizer(weights.load_vqgan("cpu", torch.float32), settings)
    preset = resolve_preset("model", settings.image, settings.vqgan.image_channels)
    encoded = encode_rows(rows, tokenizer, preset, InputSettings(), progress=lambda *_: None)
    decoder, text = weights.load_decoder("cpu", torch.float32), weights.load_text_tokenizer()
    assert text is not None, "the weights have no text tokenizer"
    codes = encoded.codes_NP.tolist()
    reports = [text.encode(row.report or "") for row in encoded.rows]
    starts = range(0, len(codes), _BATCH)
    parts = [image_embeddings(decoder, settings.vocabulary, codes[start : start + _BATCH]) for start in starts]
    image_NLD = F.normalize(torch.cat(parts), dim=-1)
    parts = [text_embeddings(decoder, settings.vocabulary, reports[start : start + _BATCH]) for start in starts]
    text_NLD = F.normalize(torch.cat(parts), dim=-1)
    is_same_NN = label_matrix(encoded.rows)
    print(f"{len(codes)} rows; same labels by chance {100 * float(is_same_NN.float().mean()):.1f} %")
    for image_layer in range(image_NLD.shape[1]):
        among_NN = image_NLD[:, image_layer] @ image_NLD[:, image_layer].T
        among = same_labels(among_NN.fill_diagonal_(-2), is_same_NN, 10)
        cells = []
        for text_layer in range(text_NLD.shape[1]):
            score_NN = image_NLD[:, image_layer] @ text_NLD[:, text_layer].T
            recall = sum(found[0] for found in recalls(score_NN, (10,))) / 2
            cells.append(f"{recall:.1f}/{same_labels(score_NN, is_same_NN, 10):.0f}")
        print(f"image layer {image_layer}: R@10/labels by text layer {' '.join(cells)}; image to image {among:.1f}")
    count = options.scored
    for minus in ("none", "hidden", "alone"):
        scorer = ReportScorer(decoder, settings.vocabulary, minus=minus, batch_size=_BATCH)
        score_NN = torch.tensor([scorer.score(image, reports[:count]) for image in codes[:count]])
        labels = same_labels(score_NN, is_same_NN[:count, :count], 5)
        print(f"likelihood minus {minus}: R@1, 5, 10 both ways {recalls(score_NN, (1, 5, 10))}; labels {labels:.0f}")


if __name__ == "__main__":
    main()
