"""One network in one safetensors file, or in several under an index, as transformers writes a large checkpoint.

``NAME.safetensors.index.json`` holds ``weight_map``: tensor name -> file beside it. Where ``NAME.safetensors`` is
there, too, it is read and the index is not, as transformers does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chexmix_cli.core.errors import WeightsError
from chexmix_cli.core.files import write_json
from chexmix_cli.core.weights import files
from chexmix_cli.core.weights.formats.header import Header, parse_object, read_header, refuse_placeholder
from chexmix_cli.core.weights.formats.safetensors_io import (
    SafetensorsSource,
    TensorSource,
    tensor_bytes,
    write_safetensors,
)

if TYPE_CHECKING:
    import torch

#: Of the file that says which tensor is in which file.
INDEX_SUFFIX = ".index.json"
_PICKLED = "it is pickled, and reading it could run code"
_SAFE_HINT = "where you trust it, load it with transformers and write it with save_pretrained(safe_serialization=True)"
#: Decoders in forms that are not read: pattern, what is wrong with it, what to do.
_FOREIGN = (
    (
        "model-*-of-*.safetensors",
        f"a part of a decoder without {files.MODEL_FILE}{INDEX_SUFFIX}",
        "fetch the index, too",
    ),
    ("pytorch_model*.bin", _PICKLED, _SAFE_HINT),
    ("pytorch_model.bin.index.json", _PICKLED, _SAFE_HINT),
    ("consolidated*.pth", _PICKLED, _SAFE_HINT),
    ("model.pt", _PICKLED, _SAFE_HINT),
    ("adapter_model.*", "adapters without the decoder they belong to", "merge them with peft's merge_and_unload()"),
    ("tf_model.h5", "a decoder in another program's form", _SAFE_HINT),
    ("flax_model.msgpack", "a decoder in another program's form", _SAFE_HINT),
    (
        "*.gguf",
        "a decoder in another program's form",
        "`chexmix weights convert FILE.gguf -o DIR` reads one that chexmix exported",
    ),
)


def find_network(directory: Path, name: str) -> Path | None:
    """Return the file of a network: ``name``, else its index, or None."""
    for path in (directory / name, directory / f"{name}{INDEX_SUFFIX}"):
        if path.is_file():
            return path
    return None


def foreign_decoder(directory: Path) -> WeightsError | None:
    """Return what is wrong with the decoder of a directory if it has one in a form that is not read, or None."""
    if find_network(directory, files.MODEL_FILE) is not None:
        return None
    for pattern, problem, hint in _FOREIGN:
        for path in sorted(directory.glob(pattern)):
            expected = f"{files.MODEL_FILE}, or {files.MODEL_FILE}{INDEX_SUFFIX} and its files"
            return WeightsError(
                f"{path.name} is not read: {problem}", where=str(directory), expected=expected, hint=hint
            )
    return None


def network_files(path: Path) -> list[Path]:
    """Return the files that hold a network's tensors: the file itself, or those of an index.

    Raises:
        WeightsError: if the index is damaged, or one of its files is missing.
    """
    if not path.name.endswith(INDEX_SUFFIX):
        return [path]
    found = [path.with_name(name) for name in sorted(set(read_index(path).values()))]
    missing = [part.name for part in found if not _is_file(part)]
    if missing:
        raise WeightsError(f"{', '.join(missing)} is missing", where=str(path), expected="every file of the index")
    return found


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # no such name can be had
        return False


def open_safetensors(path: Path, headers: Mapping[str, Header] | None = None) -> TensorSource:
    """Return the tensors of a network.

    Args:
        path: of :func:`find_network`.
        headers: by file name, of those that were read before.

    Raises:
        WeightsError: if a file is missing or damaged, or index and files do not name the same tensors.
    """
    headers = headers or {}
    if path.name.endswith(INDEX_SUFFIX):
        return ShardedSource(path, headers)
    return SafetensorsSource(path, headers.get(path.name))


class ShardedSource:
    """Safetensors files under one index as a :class:`TensorSource`.

    Attributes:
        file_of: name of each tensor's file.
    """

    def __init__(self, index: Path, headers: Mapping[str, Header]) -> None:
        self.where = str(index)
        self.file_of = read_index(index)
        self._sources = {
            path.name: SafetensorsSource(path, headers.get(path.name) or read_header(path))
            for path in network_files(index)
        }
        held = [(key, name) for name, source in self._sources.items() for key in source.shapes]
        problems = [f"{key} is not in {name}" for key, name in sorted({*self.file_of.items()} - {*held})]
        for key, name in held:
            owner = self.file_of.get(key)
            if owner is None:
                problems.append(f"{key} of {name} is not in the index")
            elif owner != name:
                problems.append(f"{key} is in {name}, too, beside {owner}")
        if problems:
            more = f" and {len(problems) - 1} more" if len(problems) > 1 else ""
            raise WeightsError(
                f"does not fit its files: {problems[0]}{more}",
                where=self.where,
                hint="copy or fetch the index and all of its files again",
            )
        self.shapes: Mapping[str, tuple[int, ...]] = {
            key: self._sources[name].shapes[key] for key, name in self.file_of.items()
        }
        self.dtypes: Mapping[str, str] = {key: self._sources[name].dtypes[key] for key, name in self.file_of.items()}

    @property
    def files(self) -> list[str]:
        """Return the names of the files, sorted."""
        return sorted(self._sources)

    def get(self, key: str) -> torch.Tensor:
        """Return one tensor, a view of its mapped file."""
        return self._sources[self.file_of[key]].get(key)

    def release(self) -> None:
        """Unmap the files; they are mapped again when needed."""
        for source in self._sources.values():
            source.release()


def read_index(path: Path) -> dict[str, str]:
    """Return the file of each tensor, there or not.

    Raises:
        WeightsError: if it is no index, names no tensor, one tensor twice, or a file outside its folder.
    """
    refuse_placeholder(path)
    try:
        values: Any = parse_object(path.read_bytes())["weight_map"]
        pairs = {str(key): str(name) for key, name in values.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise WeightsError(f"is no index of weights ({error})", where=str(path)) from None
    outside = [name for name in pairs.values() if not name or Path(name).name != name or name == ".." or "\0" in name]
    if outside:
        raise WeightsError(f"names a file outside its folder ({outside[0]!r})", where=str(path))
    if not pairs:
        raise WeightsError("names no tensor", where=str(path))
    return pairs


def plan_files(
    name: str, source: TensorSource, *, dtype: torch.dtype | None = None, max_bytes: int | None = None
) -> dict[str, list[str]]:
    """Return the files a network is written into, each with its tensors.

    Args:
        name: of the network, were it one file.
        source: its tensors.
        dtype: of the files.
        max_bytes: most bytes of a file's tensors, but that a larger tensor has a file of its own; None: the same files
            as the source.
    """
    if max_bytes is None and isinstance(source, ShardedSource):
        return {file: [key for key in source.file_of if source.file_of[key] == file] for file in source.files}
    sizes, groups, used = tensor_bytes(source, dtype), list[list[str]](), 0
    for key, size in sizes.items():
        if not groups or (max_bytes is not None and used + size > max_bytes):
            groups.append([])
            used = 0
        groups[-1].append(key)
        used += size
    if len(groups) == 1:
        return {name: groups[0]}
    stem = name.removesuffix(".safetensors")
    names = [f"{stem}-{number:05d}-of-{len(groups):05d}.safetensors" for number in range(1, len(groups) + 1)]
    return dict(zip(names, groups, strict=True))


def require_free(directory: Path, name: str, source: TensorSource, plan: Mapping[str, Sequence[str]]) -> None:
    """Refuse to write several files where one of the same network lies, which would be read in their place.

    Files that are being read are not written over either, unless each takes the place of itself.
    """
    if name not in plan and (directory / name).is_file():
        raise WeightsError(
            f"holds {name}, which would be read in place of what is written",
            where=str(directory),
            expected="a folder without it",
        )
    if not isinstance(source, ShardedSource):
        return
    for file, keys in plan.items():
        is_read = (directory / file).exists() and (directory / file).samefile(Path(source.where).with_name(file))
        if is_read and any(source.file_of[key] != file for key in keys):
            raise WeightsError(
                f"holds {file}, which is still to be read", where=str(directory), expected="another folder"
            )


def write_network(
    directory: Path,
    name: str,
    source: TensorSource,
    plan: Mapping[str, Sequence[str]],
    *,
    metadata: Mapping[str, str],
    dtype: torch.dtype | None = None,
) -> list[str]:
    """Write a network into the files of a plan, with their index if they are several; return the names.

    Arguments as :func:`plan_files` and :func:`write_safetensors`. The index comes last: until it is there, the former
    one holds, and names files that hold the same tensors.
    """
    if list(plan) == [name]:
        write_safetensors(directory / name, source, metadata=metadata, dtype=dtype)
        return [name]
    for file, keys in plan.items():
        write_safetensors(directory / file, _Some(source, keys), metadata=metadata, dtype=dtype)
    weight_map = {key: file for file, keys in plan.items() for key in keys}
    total = sum(tensor_bytes(source, dtype).values())
    write_json(directory / f"{name}{INDEX_SUFFIX}", {"metadata": {"total_size": total}, "weight_map": weight_map})
    return [*plan, f"{name}{INDEX_SUFFIX}"]


class _Some:
    """Some tensors of a source."""

    def __init__(self, source: TensorSource, keys: Sequence[str]) -> None:
        self._source, self.where = source, source.where
        self.shapes: Mapping[str, tuple[int, ...]] = {key: source.shapes[key] for key in keys}
        self.dtypes: Mapping[str, str] = {key: source.dtypes[key] for key in keys}

    def get(self, key: str) -> torch.Tensor:
        """Return one tensor."""
        return self._source.get(key)

    def release(self) -> None:
        """Release the source."""
        self._source.release()
