"""What wraps a network in a checkpoint: prefixes of its tensors' names, second copies, adapters that are not merged.

Where a whole network is there under one prefix, and nothing else is, there is nothing to guess: it is read. Everything
else is refused, and named for what it is.
"""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from typing import TYPE_CHECKING, Protocol

from chexmix_cli.core.weights.formats.keys import Slice, is_training_only

if TYPE_CHECKING:
    from torch import Tensor

_LOG = logging.getLogger("chexmix")

#: What torch puts into names where it compiles, shards or recomputes a part.
_INSIDE = re.compile(r"(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
#: A latent diffusion model has its VQGAN under this prefix, and its other networks beside it.
_FIRST_STAGE = "first_stage_model."
_AVERAGE = re.compile(r"(?:\w+_)?ema(?:_\w+)?\.")
_ADAPTER = re.compile(r"\.lora_[AB]\b|\.lora_embedding_[AB]\b")
#: Names by which people know who wrote a prefix.
_WRITERS = {
    "module.": "DataParallel",
    "base_model.model.": "peft",
    _FIRST_STAGE: "latent diffusion",
    "model.": "a training framework",
}


class Named(Protocol):
    """Tensors by name, as ``safetensors_io.TensorSource`` is."""

    where: str
    shapes: Mapping[str, tuple[int, ...]]
    dtypes: Mapping[str, str]

    def get(self, key: str) -> Tensor:
        """Return one tensor."""

    def release(self) -> None:
        """Let go of what was mapped."""


class Unwrapped:
    """A source's tensors under other names."""

    def __init__(self, source: Named, name_of: Mapping[str, str]) -> None:
        self._source, self._name_of, self.where = source, name_of, source.where
        self.shapes: Mapping[str, tuple[int, ...]] = {key: source.shapes[name] for key, name in name_of.items()}
        self.dtypes: Mapping[str, str] = {key: source.dtypes[name] for key, name in name_of.items()}

    def get(self, key: str) -> Tensor:
        """Return one tensor."""
        return self._source.get(self._name_of[key])

    def release(self) -> None:
        """Release the source."""
        self._source.release()


def unwrap(source: Named, slices: Iterable[Slice]) -> Named:
    """Return a source whose tensors have the names of a table, if they are all there under one prefix.

    What is there besides keeps its name, and so is refused as unexpected; but not what only training needed, nor the
    other networks of a latent diffusion model. Any other source comes back as it is.
    """
    wanted = {item.key for item in slices}
    if not wanted - source.shapes.keys():
        return source
    plain = {_INSIDE.sub("", name): name for name in source.shapes}
    prefixes = whole_copies(wanted, plain) if len(plain) == len(source.shapes) else []
    if len(prefixes) != 1:
        return source
    (prefix,) = prefixes
    name_of, num_left_out = {}, 0
    for key, name in plain.items():
        inside = key.removeprefix(prefix)
        if key.startswith(prefix) and inside in wanted:
            name_of[inside] = name
        elif is_training_only(inside) or (prefix == _FIRST_STAGE and not key.startswith(prefix)):
            num_left_out += 1
        else:
            name_of[name] = name
    wrapper = f"the prefix {prefix!r}" if prefix else "torch's wrappers"
    _LOG.info("%s: names are read without %s; %d tensors left out", source.where, wrapper, num_left_out)
    return Unwrapped(source, name_of)


def explain(wanted: Collection[str], names: Collection[str]) -> tuple[str, str] | None:
    """Return what names that do not fit say about a file, and what to do, or None."""
    unexpected = [name for name in names if name not in wanted]
    adapters = [name for name in unexpected if _ADAPTER.search(name)]
    if adapters:
        problem = f"{len(adapters)} of them are adapters that are not merged (lora)"
        return problem, "merge them into the weights with peft's merge_and_unload(), then save those"
    averages = [found.group() for name in unexpected if (found := _AVERAGE.match(name))]
    if averages:
        return (
            f"{len(averages)} of them are a running average of the weights ({averages[0]}*), a second copy",
            "save one of the two, under the plain names: which one is better only its training knows",
        )
    copies = whole_copies(wanted, {_INSIDE.sub("", name): name for name in names})
    if len(copies) > 1:
        shown = " and ".join(repr(prefix) if prefix else "no prefix" for prefix in sorted(copies))
        return f"the network is there {len(copies)} times, under {shown}", "save one of them, under the plain names"
    prefix_counts = _prefix_counts(wanted, names)
    prefix_counts.pop("", None)
    if prefix_counts:
        most, count = prefix_counts.most_common(1)[0]
        writer = f" ({_WRITERS[most]})" if most in _WRITERS else ""
        problem = f"{count} of the {len(wanted)} are there under the prefix {most!r}{writer}"
        return problem, f"the file was saved by a wrapper; save the state dict of the network without {most!r}"
    return None


def whole_copies(wanted: Collection[str], names: Iterable[str]) -> list[str]:
    """Return the prefixes under which every wanted name is there."""
    return [prefix for prefix, count in _prefix_counts(wanted, names).items() if count == len(wanted)]


def _prefix_counts(wanted: Collection[str], names: Iterable[str]) -> Counter[str]:
    """Return how many of the wanted names are there under each prefix."""
    known, found = set(wanted), Counter[str]()
    for name in names:
        parts = name.split(".")
        for start in range(len(parts)):
            if ".".join(parts[start:]) in known:
                found["".join(f"{part}." for part in parts[:start])] += 1
    return found
