"""Settings files of the released layout, both ways: ``config.json`` (PhiForCausalLM) and ``vqgan.yaml`` (taming).

Reading is strict where it matters: a switch of the architecture that our modules do not have is refused by name, keys
that only concern training are passed over.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from chexmix_cli.core.errors import ChexmixError, SettingsError, WeightsError
from chexmix_cli.core.settings.model import DecoderSettings, ModelSettings, VqganSettings
from chexmix_cli.core.weights.formats.header import parse_object, refuse_placeholder

#: Names of the tanh approximation of GELU, the only activation of the decoder.
_TANH_GELU = ("gelu_new", "gelu_pytorch_tanh")
#: ``PhiConfig``'s defaults of the keys a configuration may leave out.
_PHI_DEFAULTS: Mapping[str, Any] = {
    "hidden_act": "gelu_new",
    "layer_norm_eps": 1e-5,
    "tie_word_embeddings": False,
    "partial_rotary_factor": 0.5,
    "rope_theta": 10000.0,
    "resid_pdrop": 0.0,
    "qk_layernorm": False,
}
#: Fixed in taming-transformers' code, so not in its configuration.
_TAMING_GROUPS, _TAMING_EPS = 32, 1e-6
#: Keys of ``ddconfig`` with the values, other than ours to read, that leave the architecture as it is.
_DDCONFIG_HARMLESS: Mapping[str, tuple[Any, ...]] = {
    "attn_resolutions": ([],),
    "double_z": (False,),
    "resamp_with_conv": (True,),
    "give_pre_end": (False,),
    "tanh_out": (False,),
    "use_linear_attn": (False,),
    "attn_type": ("vanilla",),
}
_DDCONFIG_READ = ("ch", "ch_mult", "num_res_blocks", "z_channels", "in_channels", "out_ch", "resolution")
_DDCONFIG_OURS = ("num_groups",)


def read_config(path: Path, *, allow_tied: bool = False) -> DecoderSettings:
    """Return the decoder settings of a ``config.json``.

    Args:
        path: the file.
        allow_tied: take a head that is tied to the embedding; the reader of the weights must then untie it.

    Raises:
        WeightsError: if it is no Phi configuration, or of a form the decoder does not have.
    """
    where = str(path)
    values = _read_phi(path)
    rope = values.get("rope_parameters") or {}  # where transformers 5 keeps what were three keys before
    values = {**_PHI_DEFAULTS, **values, **{key: rope[key] for key in _PHI_DEFAULTS if key in rope}}
    _refuse_phi_variants(values, rope, where, allow_tied)
    hidden_size = _whole_number(values, "hidden_size", where)
    num_heads = _whole_number(values, "num_attention_heads", where)
    head_size = hidden_size // max(1, num_heads)
    try:
        return DecoderSettings(
            num_rows=_whole_number(values, "vocab_size", where),
            hidden_size=hidden_size,
            num_layers=_whole_number(values, "num_hidden_layers", where),
            num_heads=num_heads,
            mlp_size=_whole_number(values, "intermediate_size", where),
            max_positions=_whole_number(values, "max_position_embeddings", where),
            rotary_size=int(head_size * float(values["partial_rotary_factor"])),
            rope_theta=float(values["rope_theta"]),
            norm_eps=float(values["layer_norm_eps"]),
            residual_dropout=float(values["resid_pdrop"]),
        )
    except (SettingsError, ValueError, TypeError) as error:
        raise WeightsError(str(error), where=where) from None


def is_tied(path: Path) -> bool:
    """Return whether a ``config.json`` ties the head to the embedding; errors as :func:`read_config`."""
    return bool(_read_phi(path).get("tie_word_embeddings"))


def _read_phi(path: Path) -> dict[str, Any]:
    where = str(path)
    try:
        values = parse_object(_read(path).encode())
    except ValueError as error:
        raise WeightsError(f"is not JSON ({error})", where=where) from None
    if values.get("model_type") != "phi":
        raise WeightsError(f"model_type is {values.get('model_type')!r}", where=where, expected="'phi'")
    return values


def _refuse_phi_variants(values: Mapping[str, Any], rope: Mapping[str, Any], where: str, allow_tied: bool) -> None:
    scaling = values.get("rope_scaling") or {}
    rope_type = rope.get("rope_type", scaling.get("rope_type", scaling.get("type", "default")))
    heads = values.get("num_attention_heads")
    for key, value, allowed in (
        ("hidden_act", values["hidden_act"], _TANH_GELU),
        ("tie_word_embeddings", values["tie_word_embeddings"], (False, True) if allow_tied else (False,)),
        ("qk_layernorm", values["qk_layernorm"], (False,)),
        ("num_key_value_heads", values.get("num_key_value_heads"), (None, heads)),
        ("rope_type", rope_type, ("default",)),
        ("quantization_config", values.get("quantization_config"), (None,)),
    ):
        if value not in allowed:
            raise _unsupported(key, value, allowed, where)


def read_vqgan_config(path: Path) -> tuple[VqganSettings, int]:
    """Return the settings of a ``vqgan.yaml`` and its image resolution in pixels.

    Raises:
        WeightsError: if it is no VQModel configuration, or of a form the VQGAN does not have.
    """
    import yaml

    where = str(path)
    try:
        values = yaml.safe_load(_read(path))
    except (yaml.YAMLError, RecursionError) as error:
        raise WeightsError(f"is not YAML ({' '.join(str(error).split())})", where=where) from None
    try:
        model = values.get("model", values)
        params = model["params"]
        ddconfig = params["ddconfig"]
        target = str(model.get("target", "VQModel"))
    except (KeyError, TypeError, AttributeError):
        raise WeightsError(
            "has no model.params.ddconfig", where=where, expected="a taming VQModel configuration"
        ) from None
    if target.rsplit(".", 1)[-1] != "VQModel":
        raise _unsupported("model.target", target, ("VQModel",), where)
    if params.get("remap") is not None:
        raise _unsupported("remap", params["remap"], (None,), where)
    known = {*_DDCONFIG_HARMLESS, *_DDCONFIG_READ, *_DDCONFIG_OURS, "dropout"}
    for key, value in ddconfig.items():
        if key not in known:
            raise WeightsError(f"ddconfig has an unknown key {key!r}", where=where, expected=", ".join(sorted(known)))
        if key in _DDCONFIG_HARMLESS and value not in _DDCONFIG_HARMLESS[key]:
            raise _unsupported(key, value, _DDCONFIG_HARMLESS[key], where)
    sizes = {key: _whole_number(ddconfig, key, where) for key in _DDCONFIG_READ if key != "ch_mult"}
    if sizes["in_channels"] != sizes["out_ch"]:
        raise _unsupported("out_ch", sizes["out_ch"], (sizes["in_channels"],), where)
    multipliers = ddconfig.get("ch_mult")
    if not isinstance(multipliers, list) or not all(isinstance(value, int) for value in multipliers):
        raise WeightsError(f"ch_mult is {multipliers!r}", where=where, expected="a list of whole numbers")
    try:
        settings = VqganSettings(
            num_codes=_whole_number(params, "n_embed", where),
            code_size=_whole_number(params, "embed_dim", where),
            latent_channels=sizes["z_channels"],
            channels=sizes["ch"],
            channel_multipliers=tuple(multipliers),
            num_res_blocks=sizes["num_res_blocks"],
            image_channels=sizes["in_channels"],
            num_groups=_whole_number({"num_groups": _TAMING_GROUPS, **ddconfig}, "num_groups", where),
            norm_eps=_TAMING_EPS,
        )
    except SettingsError as error:
        raise WeightsError(str(error), where=where) from None
    return settings, sizes["resolution"]


def require_phi(settings: ModelSettings) -> None:
    """Raise WeightsError, with the reason, if a Phi of other programs cannot be the decoder.

    They would give other states without a word: they read a sequence causally, one position after the other.
    """
    decoder = settings.decoder
    for key, value, expected in (("attention", decoder.attention, "causal"), ("rope_grid", decoder.rope_grid, 0)):
        if value != expected:
            raise WeightsError(
                f"decoder.{key} is {value!r}, which a Phi of other programs cannot express",
                where=settings.name,
                expected=repr(expected),
                hint="use these weights with chexmix; `chexmix weights convert` keeps them whole",
            )


def config_text(settings: ModelSettings, dtype_name: str) -> str:
    """Return the ``config.json`` with which ``transformers`` builds the same decoder as PhiForCausalLM.

    Args:
        settings: the model.
        dtype_name: of the weights, as torch calls it: ``bfloat16``.

    Raises:
        WeightsError: as :func:`require_phi`.
    """
    require_phi(settings)
    decoder, vocabulary = settings.decoder, settings.vocabulary
    values = {
        "architectures": ["PhiForCausalLM"],
        "model_type": "phi",
        "vocab_size": decoder.num_rows,
        "hidden_size": decoder.hidden_size,
        "intermediate_size": decoder.mlp_size,
        "n_inner": decoder.mlp_size,  # vLLM's name for it; without it vLLM takes four times the hidden size
        "num_hidden_layers": decoder.num_layers,
        "num_attention_heads": decoder.num_heads,
        "num_key_value_heads": decoder.num_heads,
        "hidden_act": "gelu_new",
        "max_position_embeddings": decoder.max_positions,
        "layer_norm_eps": decoder.norm_eps,
        "tie_word_embeddings": False,
        "partial_rotary_factor": _rotary_factor(decoder),
        "rope_theta": decoder.rope_theta,
        "qk_layernorm": False,
        "resid_pdrop": decoder.residual_dropout,
        "embd_pdrop": decoder.residual_dropout,
        "attention_dropout": 0.0,
        "bos_token_id": vocabulary.begin_text,
        "eos_token_id": vocabulary.begin_text,
        "pad_token_id": vocabulary.pad,
        "torch_dtype": dtype_name,
    }
    return json.dumps(values, indent=2) + "\n"


def vqgan_config_text(settings: ModelSettings) -> str:
    """Return the ``vqgan.yaml`` of a model, in taming-transformers' form.

    ``num_groups`` stands in it only where it is not the 32 that taming-transformers has fixed.
    """
    import yaml

    vqgan = settings.vqgan
    ddconfig = {
        "attn_resolutions": [],
        "ch": vqgan.channels,
        "ch_mult": list(vqgan.channel_multipliers),
        "double_z": False,
        "dropout": 0.0,
        "in_channels": vqgan.image_channels,
        "num_res_blocks": vqgan.num_res_blocks,
        "out_ch": vqgan.image_channels,
        "resolution": settings.image.resolution_px,
        "z_channels": vqgan.latent_channels,
    }
    if vqgan.num_groups != _TAMING_GROUPS:
        ddconfig["num_groups"] = vqgan.num_groups
    params = {"ddconfig": ddconfig, "embed_dim": vqgan.code_size, "n_embed": vqgan.num_codes}
    text: str = yaml.safe_dump({"model": {"params": params, "target": "taming.models.vqgan.VQModel"}})
    return text


def _rotary_factor(decoder: DecoderSettings) -> float:
    """Return the share whose product with the head size, cut to a whole number, is ``rotary_size``."""
    factor = decoder.rotary_size / decoder.head_size
    return factor if int(factor * decoder.head_size) == decoder.rotary_size else math.nextafter(factor, 1.0)


def _read(path: Path) -> str:
    refuse_placeholder(path)
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise WeightsError(f"cannot be read ({error})", where=str(path)) from None


def _whole_number(values: Mapping[str, Any], key: str, where: str) -> int:
    value = values.get(key)
    if not isinstance(value, int) or isinstance(value, bool):
        raise WeightsError(f"{key} is {value!r}", where=where, expected="a whole number")
    return value


def _unsupported(key: str, value: Any, allowed: tuple[Any, ...], where: str) -> ChexmixError:
    names = " or ".join(dict.fromkeys(repr(choice) for choice in allowed if choice is not None)) or "nothing"
    return WeightsError(f"{key} is {value!r}, which is not supported", where=where, expected=names)
