"""Tables and plots of docs/results.md from the numbers of docs/results.json; used by tools/results_page.py."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from chexmix_cli.core.evals.result import Curve, Series
from chexmix_cli.core.present.plots import curve_png

Numbers = dict[str, Any]

#: Arms in the order of the tables, with what they are called there.
NAMES = {
    "s1": "S1",
    "s1-more": "S1, then more S1",
    "s2-paper": "S1, then S2 causal (paper)",
    "s2-both": "S1, then S2 bidirectional",
    "s2-only": "S2 bidirectional alone",
    "s2-both-masked": "as bidirectional, loss on hidden targets only",
    "s2-both-image": "as bidirectional, no report token hidden",
    "s2-both-high": "as bidirectional, 40 to 90 % of an image hidden",
    "mini-128": "chexmix-mini of 128 px, shipped before",
    "mini-first": "chexmix-mini of 2,000 documents a stage, shipped before",
    "mini-s1-more": "stage 1, then more of it",
    "mini-s2": "stage 1, then stage 2",
    "mini-states": "chexmix-mini, means of states, without its projections",
    "chexmix-mini": "chexmix-mini",
    "mini-whole": "chexmix-mini trained whole for findings on 2,400 films",
    "cnn": "plain CNN of 4.9 M parameters, same films",
}
#: The small models of 128 px that differ in their objective, and what was shipped for the same films.
ARMS = tuple(name for name in NAMES if name.startswith("s")) + ("mini-128",)
#: The embedded model, and what it has to beat.
EMBEDDED = ("mini-128", "mini-first", "mini-states", "chexmix-mini", "mini-whole", "cnn")
#: Of the embedded model's size and resolution, as many documents each.
STAGES = ("mini-s1-more", "mini-s2")
FILLS = ("mean", "telea", "harmonic", "biharmonic", "tension")
_SOURCES = {
    "kermany-grid": "Kermany, children: pneumonia against normal",
    "nih-grid": "NIH, adults: text-mined pneumonia against other",
}
_RADIOLOGISTS = {
    "kermany-grid": "children: pneumonia against normal",
    "opacity-grid": "adults: lung opacity against all others",
    "normal-grid": "adults: lung opacity against normal",
    "nih-grid": "adults: text-mined pneumonia against all others",
}
#: Differences that a claim of the page rests on.
_CLAIMS = ("s2-paper - s1-more", "s2-both - s1-more")


def tables(numbers: Numbers) -> dict[str, str]:
    """Return name -> Markdown table."""
    found = {f"masking-{source}": _masking(numbers, source) for source in _SOURCES}
    found["embedded"] = _embedded(numbers)
    found["stages"] = _stages(numbers)
    found["sizes"] = _sizes(numbers)
    found["differences"] = _differences(numbers)
    found["inpainting"] = _inpainting(numbers, ARMS)
    found["inpainting-embedded"] = _inpainting(numbers, ("chexmix-mini",))
    found["retrieval"] = _retrieval(numbers)
    found["reports"] = _reports(numbers)
    return found


def plots(numbers: Numbers) -> dict[str, bytes]:
    """Return name -> PNG."""
    found = {f"results-{source}": curve_png(_masking_curve(numbers, source)) for source in _SOURCES}
    for pattern in ("random", "block"):
        found[f"results-inpainting-{pattern}"] = curve_png(_inpainting_curve(numbers, pattern))
    found["results-sizes"] = curve_png(_sizes_curve(numbers))
    return found


def arm_of(name: str) -> str:
    """Return the arm of a result's name, without its seed."""
    return name.split("-", 1)[1] if name.startswith("seed") else name


def _runs(numbers: Numbers, part: str, arms: Sequence[str] = ARMS) -> dict[str, list[Numbers]]:
    """Return arm -> what its seeds gave, arms in the order of the tables."""
    found: dict[str, list[Numbers]] = {}
    for arm in arms:
        runs = [one[part] for name, one in sorted(numbers["arms"].items()) if arm_of(name) == arm and part in one]
        if runs:
            found[arm] = runs
    return found


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows), ""])


def _seeds(values: Sequence[Sequence[float | None] | None], digits: int) -> str:
    """Return the values of all seeds; of a single one with its interval."""
    there = [value for value in values if value is not None and value[0] is not None]
    if not there:
        return ""
    if len(there) == 1 and there[0][1] is not None:
        value, low, high = (f"{number:.{digits}f}" for number in there[0])
        return f"{value} ({low} to {high})"
    return " / ".join(f"{value[0]:.{digits}f}" for value in there)


def _masking(numbers: Numbers, source: str) -> str:
    runs = _runs(numbers, source)
    ratios = sorted({ratio for found in runs.values() for one in found for ratio in one["model"]["clean"]}, key=float)
    head = [_SOURCES[source], "probe fitted", *(f"{100 * float(ratio):.0f} %" for ratio in ratios)]
    rows = []
    for arm, found in runs.items():
        for probe in ("clean", "masked"):
            of_seeds = [[one["model"].get(probe, {}).get(ratio) for one in found] for ratio in ratios]
            rows.append([NAMES[arm], probe, *(_seeds(values, 3) for values in of_seeds)])
    for trained, pixels in _pixels(runs).items():
        for probe in ("clean", "masked"):
            cells = [_seeds([pixels.get(probe, {}).get(ratio)], 3) for ratio in ratios]
            rows.append([f"100 pixel components, {trained} train rows", probe, *cells])
    return _table(head, rows)


def _embedded(numbers: Numbers) -> str:
    """Return the embedded model beside what it has to beat: what was fitted under masks, if it was, under theirs."""
    ratios = ("0", "0.4", "0.8")
    rows = []
    for source, question in _RADIOLOGISTS.items():
        runs = _runs(numbers, source, EMBEDDED)
        measured = {NAMES[arm]: found[0]["model"] for arm, found in runs.items()}
        if (own := runs.get("chexmix-mini")) is not None:
            measured["100 pixel components"] = own[0]["pixels"]
        for name, features in measured.items():
            # A head that is there is fitted once, and measured under every mask.
            masked = features.get("masked", features["clean"])
            probes = {ratio: features["clean"] if ratio == "0" else masked for ratio in ratios}
            cells = [_seeds([probe.get(ratio)], 3) for ratio, probe in probes.items()]
            rows.append([question, name, *cells])
            question = ""
    return _table(["question", "AUROC, val, 95 % interval by patient", "whole", "40 % masked", "80 % masked"], rows)


def _stages(numbers: Numbers) -> str:
    """Return both seeds of the two ways to go on, and their difference, question by question."""
    name = " - ".join(reversed(STAGES))
    differences = {key: found for key, found in sorted(numbers["differences"].items()) if key.startswith(name)}
    rows = []
    for source, question in _RADIOLOGISTS.items():
        runs = _runs(numbers, source, STAGES)
        asked = next(iter(differences.values()))[source]
        columns = [(probe, ratio) for probe in asked for ratio in sorted(asked[probe], key=float)]
        for arm, found in runs.items():
            of_seeds = [[one["model"][probe].get(ratio) for one in found] for probe, ratio in columns]
            rows.append([question, NAMES[arm], *(_seeds(values, 3) for values in of_seeds)])
            question = ""
        for key, found in differences.items():
            seed = key.removeprefix(name).replace("seed", "seed ")
            cells = [_difference(found[source][probe].get(ratio)) for probe, ratio in columns]
            rows.append(["", f"difference{seed}", *cells])
    head = ["AUROC, val", "", *(f"{probe}, {100 * float(ratio):.0f} %" for probe, ratio in columns)]
    return _table(head, rows)


def _by_size(numbers: Numbers) -> dict[tuple[int, int], list[Numbers]]:
    """Return (layers, width) -> what was trained of this size, fewest documents first; small sizes first."""
    found: dict[tuple[int, int], list[Numbers]] = {}
    for one in sorted(numbers["sizes"].values(), key=lambda one: (one["parameters"], one["documents"])):
        found.setdefault((one["layers"], one["width"]), []).append(one)
    return found


def _sizes(numbers: Numbers) -> str:
    rows = []
    for (layers, width), runs in _by_size(numbers).items():
        for one in runs:
            losses = [f"{one[name]:.3f}" for name in ("val_loss", "val_loss_image", "val_loss_text")]
            shape = [f"{layers}, {width}", f"{one['parameters'] / 1e6:.1f} M"]
            rows.append([*shape, f"{one['documents']:,}", f"{one['operations'] / 1e12:.0f}", *losses])
    head = ["layers, width", "parameters", "documents", "10^12 operations", "val loss, nats a target", "image", "text"]
    return _table(head, rows)


def _sizes_curve(numbers: Numbers) -> Curve:
    series = [
        Series(
            name=f"{layers} layers of {width}, {runs[0]['parameters'] / 1e6:.1f} M parameters",
            x=[one["operations"] / 1e12 for one in runs],
            y=[one["val_loss"] for one in runs],
        )
        for (layers, width), runs in _by_size(numbers).items()
    ]
    return Curve(
        name="results-sizes",
        title="Three sizes of decoder, two budgets, stage 1",
        x_label="operations of learning, 10^12",
        y_label="validation loss, nats a target",
        series=series,
    )


def _pixels(runs: Mapping[str, Sequence[Numbers]]) -> dict[str, Numbers]:
    """Return number of train rows -> AUROCs of the pixel baseline, of the run with most ratios."""
    found: dict[str, Numbers] = {}
    for one in sorted((one for found in runs.values() for one in found), key=lambda one: -len(one["pixels"]["clean"])):
        found.setdefault(one["train"], one["pixels"])
    return found


def _differences(numbers: Numbers) -> str:
    rows = []
    shown = {
        name: {source: probes for source, probes in numbers["differences"][name].items() if source in _SOURCES}
        for name in _CLAIMS
    }
    every = [probes for sources in shown.values() for probes in sources.values()]
    columns = [
        (probe, ratio)
        for probe in ("clean", "masked")
        for ratio in sorted({ratio for probes in every for ratio in probes[probe]}, key=float)
    ]
    for name, sources in shown.items():
        for source, probes in sources.items():
            rows.append([name, source, *(_difference(probes[probe].get(ratio)) for probe, ratio in columns)])
    return _table(["", "", *(f"{probe}, {100 * float(ratio):.0f} %" for probe, ratio in columns)], rows)


def _difference(found: Numbers | None) -> str:
    """Return a difference, bold where its interval has no zero, with a dagger where its seeds have not one sign."""
    if found is None:
        return ""
    value, low, high = found["value"]
    mark = "**" if low > 0 or high < 0 else ""
    disagree = " †" if min(found["seeds"]) < 0 < max(found["seeds"]) else ""
    return f"{mark}{value:+.3f}{mark} ({low:+.3f} to {high:+.3f}){disagree}"


def _inpainting(numbers: Numbers, arms: Sequence[str]) -> str:
    runs = _runs(numbers, "inpainting", arms)
    conditions = [name for name in next(iter(runs.values()))[0] if name != "n"]
    rows = []
    for count in sorted({one["n"] for found in runs.values() for one in found}):
        # Fills stand beside the runs of the same films.
        of_count = {arm: [one for one in found if one["n"] == count] for arm, found in runs.items()}
        first = next(found[0] for found in of_count.values() if found)
        for fill in (*FILLS, "ceiling"):
            cells = [f"{first[condition][fill][0]:.2f}" for condition in conditions]
            rows.append([f"{fill}, {count} films", *cells])
        for arm, found in of_count.items():
            for method in sorted({name for name in found[0][conditions[0]] if name.endswith("blend")}) if found else []:
                cells = [
                    _seeds([[one[condition][method][0], None, None] for one in found], 2) for condition in conditions
                ]
                rows.append([f"{NAMES[arm]}: {method}", *cells])
    return _table(["PSNR of hidden pixels, dB", *conditions], rows)


def _retrieval(numbers: Numbers) -> str:
    runs = _runs(numbers, "retrieval", EMBEDDED)
    keys = list(next(iter(runs.values()))[0]["model"])
    rows = [
        [NAMES[arm], *(_seeds([one["model"][key] for one in found], 3) for key in keys)] for arm, found in runs.items()
    ]
    chance = next(iter(runs.values()))[0]["random"]
    rows.append(["random order", *(f"{chance[key][0]:.3f}" for key in keys)])
    return _table(["found: a report of the same labels", *keys], rows)


def _reports(numbers: Numbers) -> str:
    keys, rows = ("micro", "pneumonia", "contradicting"), []
    whats = {"majority": "commonest report", "nearest": "report of the nearest film", "probe": "probe"}
    for arm in EMBEDDED:
        # Baselines stand above the model of the same films.
        for part, what in (whats | {"reports": NAMES[arm]}).items():
            for one in _runs(numbers, part, [arm]).get(arm, []):
                films = "three sources" if arm == "mini-128" else "four, adult normals among them"
                rows.append([films, what, *(_seeds([one.get(key)], 3) for key in keys)])
    head = ["val films", "reports", "label F1, 14 findings, micro", "F1 of pneumonia", "contradict themselves"]
    return _table(head, rows)


def _mean(runs: Sequence[Sequence[float | None]]) -> float:
    values = [run[0] for run in runs if run[0] is not None]
    return sum(values) / len(values)


def _masking_curve(numbers: Numbers, source: str) -> Curve:
    series = []
    runs = _runs(numbers, source)
    for arm in (arm for arm in ("s1-more", "s2-paper", "s2-both", "s2-only", "mini-128") if arm in runs):
        # Of several seeds only what all have: a mean over fewer would be another thing in the same line.
        common = set.intersection(*(set(one["model"]["masked"]) for one in runs[arm]))
        ratios = sorted(common | {"0"}, key=float)
        points = [[_point(one["model"], ratio) for one in runs[arm]] for ratio in ratios]
        x, y = [100 * float(ratio) for ratio in ratios], [_mean(point) for point in points]
        seeds = f", mean of {len(runs[arm])} seeds" if len(runs[arm]) > 1 else ""
        series.append(Series(name=NAMES[arm] + seeds, x=x, y=y))
    pixels = next(iter(_pixels(runs).values()))
    ratios = sorted(pixels["masked"] | {"0": None}, key=float)
    x, y = [100 * float(ratio) for ratio in ratios], [_mean([_point(pixels, ratio)]) for ratio in ratios]
    series.append(Series(name="100 pixel components", x=x, y=y))
    title = f"{_SOURCES[source]}; probes fitted masked"
    return Curve(name=f"results-{source}", title=title, x_label="masked, %", y_label="AUROC", series=series)


def _point(features: Numbers, ratio: str) -> list[float | None]:
    """Return the number of the probe fitted under the same masks; without a mask there is one probe."""
    found: list[float | None] = features["clean" if ratio == "0" else "masked"][ratio]
    return found


def _inpainting_curve(numbers: Numbers, pattern: str) -> Curve:
    runs = _runs(numbers, "inpainting")
    first = next(reversed(runs.values()))[0]
    conditions = [name for name in first if name.startswith(pattern)]
    x = [100 * float(name.split()[1]) for name in conditions]
    series = [Series(name=fill, x=x, y=[first[name][fill][0] for name in conditions]) for fill in FILLS]
    for arm in (arm for arm in ("s1-more", "s2-paper", "s2-both") if arm in runs):
        y = [_mean([one[name]["single-expected, blend"] for one in runs[arm]]) for name in conditions]
        series.append(Series(name=f"{NAMES[arm]}, blended", x=x, y=y))
    return Curve(
        name=f"results-inpainting-{pattern}",
        title=f"Inpainting, {pattern} masks, leak-free",
        x_label="hidden, %",
        y_label="PSNR of hidden pixels, dB",
        series=series,
    )
