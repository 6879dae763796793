"""A decoder in GGUF, llama.cpp's form, both ways: architecture ``phi2``, text tokenizer and description in the file.

Keys and value types: the GGUF specification (ggml, docs/gguf.md); tensor names: those llama.cpp loads for ``phi2``.
Vectors (biases, norms) are float32, as llama.cpp computes them, whatever the matrices are.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from chexmix_cli.core.errors import WeightsError, missing_package
from chexmix_cli.core.files import atomic_write
from chexmix_cli.core.settings.model import DecoderSettings, ModelSettings
from chexmix_cli.core.text.row_names import row_name, with_rows
from chexmix_cli.core.vocab import Vocabulary
from chexmix_cli.core.weights.formats.header import description_of, refuse_placeholder
from chexmix_cli.core.weights.formats.keys import decoder_slices
from chexmix_cli.core.weights.formats.safetensors_io import TensorSource, dtype_codes, require_fit

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import Tensor

GGUF_SUFFIX = ".gguf"
#: What matrices are stored as: a safetensors dtype, or 8 bits with a float16 scale for each 32 in a row.
Encoding = Literal["F32", "F16", "BF16", "Q8_0"]
GgufQuantize = Literal["q8_0"]

_ARCHITECTURE = "phi2"
#: Ours: the model, as in the header of our safetensors.
_DESCRIPTION_KEY = "chexmix.description"
#: The specification's: the tokenizer.json itself, which llama.cpp does not read.
_TOKENIZER_KEY = "tokenizer.huggingface.json"
_PLAIN: Mapping[str, Encoding] = {"F32": "F32", "F16": "F16", "BF16": "BF16"}
_BLOCK = 32
#: Most of a matrix's norm that 8 bits may lose; of numbers with a normal distribution they lose 0.005.
_MOST_LOST = 0.05
#: Lengths, texts and numbers of a header; one of 100,000 tokens with as many merges has 500,000.
_MOST_PARTS = 2_000_000
#: Numbers that are quantized at a time, so that a large matrix is not there several times over.
_CHUNK = 1 << 24
_NAMES = {
    "model.embed_tokens": "token_embd",
    "model.final_layernorm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.dense": "attn_output",
    "mlp.fc1": "ffn_up",
    "mlp.fc2": "ffn_down",
}
#: How text is cut before merging, of the ways that byte-level BPE has: GPT-2's, which llama.cpp knows by name.
_GPT2_CUT = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True}


@dataclass(frozen=True, kw_only=True, slots=True)
class GgufModel:
    """What a GGUF file says beside its tensors.

    Attributes:
        settings: of a decoder that a Phi can be.
        description: our description of the model, as JSON; with it the file can be read back.
        tokenizer: content of the ``tokenizer.json``, or None: such a file is used by token ids alone.
        licence: of the weights, its name and address, if known.
        note: for people, what the sequence is.
    """

    settings: ModelSettings
    description: str
    tokenizer: Mapping[str, Any] | None
    licence: tuple[str, str] | None
    note: str


def gguf_name(key: str) -> str:
    """Return what llama.cpp calls a tensor of ``PhiForCausalLM``."""
    stem, _, kind = key.rpartition(".")
    block = re.fullmatch(r"model\.layers\.(\d+)\.(.+)", stem)
    return f"{_NAMES[stem]}.{kind}" if block is None else f"blk.{block[1]}.{_NAMES[block[2]]}.{kind}"


def plan_encodings(
    source: TensorSource, *, dtype: torch.dtype | None = None, quantize: GgufQuantize | None = None
) -> dict[str, Encoding]:
    """Return what each tensor is stored as: vectors float32, matrices as asked for or as they are.

    Raises:
        WeightsError: if a matrix has a dtype that llama.cpp does not compute with, or rows that do not divide into the
            blocks of ``q8_0``.
    """
    plan: dict[str, Encoding] = {}
    for key, shape in source.shapes.items():
        code = source.dtypes[key] if dtype is None else dtype_codes()[dtype]
        if len(shape) < 2:
            plan[key] = "F32"
        elif quantize is None and code in _PLAIN:
            plan[key] = _PLAIN[code]
        elif quantize is None:
            raise WeightsError(f"{key} is {code}", where=source.where, expected="--dtype float32, bfloat16 or float16")
        elif shape[-1] % _BLOCK:
            expected = f"a multiple of {_BLOCK}, the block of {quantize}"
            raise WeightsError(f"{key} has rows of {shape[-1]} numbers", where=source.where, expected=expected)
        else:
            plan[key] = "Q8_0"
    return plan


def file_encoding(plan: Mapping[str, Encoding]) -> Encoding:
    """Return what a file is named by: the encoding of its largest matrix."""
    return plan["lm_head.weight"]


def write_gguf(path: Path, source: TensorSource, plan: Mapping[str, Encoding], model: GgufModel) -> None:
    """Write a decoder atomically, one tensor at a time.

    Args:
        path: the file.
        source: tensors under checkpoint keys, that fit the settings.
        plan: of :func:`plan_encodings`.
        model: what else the file says.

    Raises:
        MachineError: if the package ``gguf`` is not installed.
        WeightsError: if the text tokenizer is of a kind that llama.cpp does not have, or 8 bits lose too much of a
            matrix.
    """
    gguf = _package()
    vocabulary, writer = model.settings.vocabulary, gguf.GGUFWriter(None, _ARCHITECTURE)
    _add_model(writer, model, plan)
    if model.tokenizer is None:
        writer.add_tokenizer_model("none")
    else:
        _add_tokenizer(writer, model.tokenizer, vocabulary)
    for key, encoding in plan.items():
        kind, shape = gguf.GGMLQuantizationType[encoding], source.shapes[key]
        sizes = gguf.quant_shape_to_byte_shape(shape, kind)
        num_bytes = int(sizes[-1])
        for size in sizes[:-1]:
            num_bytes *= size
        writer.add_tensor_info(gguf_name(key), sizes, _uint8(), num_bytes, raw_dtype=kind)
    with atomic_write(path) as file:
        try:
            writer.write_header_to_file(Path(file.name))
            writer.write_kv_data_to_file()
            writer.write_ti_data_to_file()
            for key, encoding in plan.items():
                writer.write_tensor_data(_encoded(source.get(key), encoding, f"{source.where}: {key}"))
                source.release()
        finally:
            writer.close()


class GgufSource:
    """A GGUF file that chexmix exported, as a :class:`TensorSource` of checkpoint keys; ``Q8_0`` reads as float32.

    Attributes:
        settings, provenance: as the file describes them.
        tokenizer: text of its ``tokenizer.json``, or None.

    Raises:
        MachineError: if the package ``gguf`` is not installed.
        WeightsError: if the file is missing, damaged, of another program, or does not fit its own settings.
    """

    def __init__(self, path: Path) -> None:
        self.where = str(path)
        refuse_placeholder(path)
        reader = _open(path)
        text = _string(reader, _DESCRIPTION_KEY)
        if text is None:
            raise WeightsError(
                "was not exported by chexmix, so its vocabulary is not known",
                where=self.where,
                expected=f"a file with the key {_DESCRIPTION_KEY!r}",
                hint="convert the safetensors files that it was made from",
            )
        found = description_of(text, f"{path.name}: key {_DESCRIPTION_KEY!r}")
        self.settings, self.provenance = found.settings, found.provenance
        self.tokenizer = _string(reader, _TOKENIZER_KEY)
        key_of = {gguf_name(item.key): item.key for item in decoder_slices(self.settings.decoder)}
        self._tensors = {key_of.get(tensor.name, tensor.name): tensor for tensor in reader.tensors}
        _check_places(self._tensors, path)
        self.shapes: Mapping[str, tuple[int, ...]] = {
            key: tuple(int(extent) for extent in reversed(tensor.shape)) for key, tensor in self._tensors.items()
        }
        self.dtypes: Mapping[str, str] = {
            key: "F32" if tensor.tensor_type.name == "Q8_0" else tensor.tensor_type.name
            for key, tensor in self._tensors.items()
        }
        require_fit(decoder_slices(self.settings.decoder), self)

    def get(self, key: str) -> Tensor:
        """Return a copy of one tensor."""
        import torch

        tensor = self._tensors[key]
        if tensor.tensor_type.name == "Q8_0":
            return torch.from_numpy(_package().dequantize(tensor.data, tensor.tensor_type))
        values = torch.from_numpy(tensor.data.copy())
        return values.view(torch.bfloat16) if tensor.tensor_type.name == "BF16" else values

    def release(self) -> None:
        """Do nothing: the file stays mapped as long as this object lives."""


def _package() -> Any:
    try:
        import gguf
    except ImportError:
        raise missing_package("gguf", "gguf") from None
    return gguf


def _add_model(writer: Any, model: GgufModel, plan: Mapping[str, Encoding]) -> None:
    gguf, decoder = _package(), model.settings.decoder
    encoding = file_encoding(plan)
    kind = "ALL_F32" if encoding == "F32" else f"MOSTLY_{encoding}"
    writer.add_name(model.settings.name)
    writer.add_description(model.note)
    if model.licence is not None:
        writer.add_license(model.licence[0])
        writer.add_license_link(model.licence[1])
    writer.add_file_type(gguf.LlamaFileType[kind])
    if encoding == "Q8_0":
        writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    _add_shape(writer, decoder)
    writer.add_string(_DESCRIPTION_KEY, model.description)


def _add_shape(writer: Any, decoder: DecoderSettings) -> None:
    writer.add_vocab_size(decoder.num_rows)
    writer.add_context_length(decoder.max_positions)
    writer.add_embedding_length(decoder.hidden_size)
    writer.add_feed_forward_length(decoder.mlp_size)
    writer.add_block_count(decoder.num_layers)
    writer.add_head_count(decoder.num_heads)
    writer.add_head_count_kv(decoder.num_heads)
    writer.add_layer_norm_eps(decoder.norm_eps)
    writer.add_rope_dimension_count(decoder.rotary_size)
    writer.add_rope_freq_base(decoder.rope_theta)


def _add_tokenizer(writer: Any, description: Mapping[str, Any], vocabulary: Vocabulary) -> None:
    """Add the text tokenizer and a name for every other row.

    Image codes, ``I_s``, ``I_E``, ``T_s``, mask and padding are control tokens: they are read from a prompt only where
    it is said to hold special tokens, and are not written out as text.
    """
    cut = description["pre_tokenizer"]
    if {name: cut.get(name) for name in _GPT2_CUT} != _GPT2_CUT or description["model"].get("ignore_merges"):
        raise WeightsError(f"the text tokenizer cuts text by {cut}", where="tokenizer.json", expected=str(_GPT2_CUT))
    kinds = _package().TokenType
    tokens = {token_id: (name, kinds.NORMAL) for name, token_id in description["model"]["vocab"].items()}
    used = {vocabulary.mask, vocabulary.pad}
    for token in with_rows(description, vocabulary)["added_tokens"]:
        token_id, name = token["id"], token["content"]
        is_spare = name == row_name(vocabulary, token_id) and not vocabulary.is_image(token_id) and token_id not in used
        kind = kinds.USER_DEFINED if not name.strip() else kinds.UNUSED if is_spare else kinds.CONTROL
        tokens[token_id] = (name, kind)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list([tokens[token_id][0] for token_id in range(vocabulary.num_rows)])
    writer.add_token_types([tokens[token_id][1] for token_id in range(vocabulary.num_rows)])
    merges = description["model"]["merges"]
    writer.add_token_merges([merge if isinstance(merge, str) else " ".join(merge) for merge in merges])
    writer.add_bos_token_id(vocabulary.begin_text)
    writer.add_eos_token_id(vocabulary.begin_text)
    # A report also ends where the next document's image would begin.
    writer.add_eot_token_id(vocabulary.begin_image)
    writer.add_pad_token_id(vocabulary.pad)
    writer.add_mask_token_id(vocabulary.mask)
    writer.add_add_bos_token(False)
    writer.add_add_eos_token(False)
    writer.add_string(_TOKENIZER_KEY, json.dumps(description, ensure_ascii=False))


def _encoded(tensor: Tensor, encoding: Encoding, where: str) -> np.ndarray[Any, Any]:
    """Return the bytes of a tensor, uint8 (..., bytes of a row)."""
    import torch

    if encoding == "Q8_0":
        return _quantized(tensor, where)
    kept = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}[encoding]
    plain = tensor.to(device="cpu", dtype=kept).contiguous()
    return plain.view(torch.uint8).numpy()


def _quantized(tensor: Tensor, where: str) -> np.ndarray[Any, Any]:
    import numpy as np

    gguf = _package()
    kind, parts, lost, norm = gguf.GGMLQuantizationType.Q8_0, [], 0.0, 0.0
    for rows in tensor.split(max(1, _CHUNK // tensor.shape[-1])):
        before = rows.float().numpy()
        with np.errstate(over="ignore"):  # a scale beyond float16 is seen below
            parts.append(gguf.quantize(before, kind))
            after = gguf.dequantize(parts[-1], kind)
        lost += float(np.square(after - before, dtype=np.float64).sum())
        norm += float(np.square(before, dtype=np.float64).sum())
    if not lost <= (_MOST_LOST**2) * norm:
        raise WeightsError(
            f"q8_0 cannot hold it (it would change by {(lost / norm) ** 0.5:.0%})",
            where=where,
            hint="leave --quantize out",
        )
    return np.concatenate(parts)


@contextmanager
def _damage(path: Path) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise WeightsError("no such file", where=str(path)) from None
    except (ValueError, KeyError, IndexError, OverflowError, TypeError, MemoryError, OSError) as error:
        raise WeightsError(f"is damaged or no GGUF file ({error})", where=str(path), hint="copy it again") from None


def _open(path: Path) -> Any:
    import numpy as np

    with _damage(path), np.errstate(all="ignore"):
        return _reader()(path)


def _reader() -> Any:
    """Return the package's reader, which believes every length: of 2^60 values it would read nothing, 2^60 times."""

    class Reader(_package().GGUFReader):  # type: ignore[misc]
        _num_parts = 0

        def _get(self, offset: int, dtype: Any, count: int = 1, *order: Any, **named: Any) -> Any:
            found = super()._get(offset, dtype, count, *order, **named)
            self._num_parts += 1
            if len(found) != int(count):
                raise ValueError("a length reaches beyond its end")
            if self._num_parts > _MOST_PARTS:
                raise ValueError(f"its header has more than {_MOST_PARTS:,} values")
            return found

    return Reader


def _string(reader: Any, key: str) -> str | None:
    field = reader.get_field(key)
    if field is None:
        return None
    with _damage(Path(reader.data.filename)):
        return str(field.contents())


def _check_places(tensors: Mapping[str, Any], path: Path) -> None:
    """Refuse tensors that share bytes or end behind the file, which the package lets through."""
    end, size = 0, path.stat().st_size
    for key, tensor in sorted(tensors.items(), key=lambda item: int(item[1].data_offset)):
        start = int(tensor.data_offset)
        if start < end or start + int(tensor.n_bytes) > size:
            raise WeightsError(f"is damaged (bytes of {key})", where=str(path), hint="copy it again")
        end = start + int(tensor.n_bytes)


def _uint8() -> Any:
    import numpy as np

    return np.dtype(np.uint8)
