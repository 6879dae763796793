"""A fine-tuned model as a weights directory: adapters merged, with the head."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save
from torch import Tensor

from chexmix_cli.core.evals.probes.linear import best_threshold
from chexmix_cli.core.evals.probes.validation import validate_findings
from chexmix_cli.core.files import atomic_write, write_json
from chexmix_cli.core.infer.classification.heads import Head
from chexmix_cli.core.models.decoder import Decoder
from chexmix_cli.core.models.lora import adapter_tensors, merged
from chexmix_cli.core.models.vqgan import Vqgan
from chexmix_cli.core.settings.finetuning import Finetuning, LoraSettings
from chexmix_cli.core.train.finetune.classify_task import FindingsModel
from chexmix_cli.core.weights import WeightsDir, open_weights, save_model
from chexmix_cli.core.weights.files import HEAD_FILE
from chexmix_cli.core.weights.formats.header import in_order
from chexmix_cli.core.weights.formats.safetensors_io import dtype_codes

#: The folder of the adapters inside a weights directory, and its files as the ``peft`` package names them.
ADAPTER_FOLDER = "adapter"
_ADAPTER_FILE, _ADAPTER_CONFIG = "adapter_model.safetensors", "adapter_config.json"
_PEFT_NAMES = {"q": "q_proj", "k": "k_proj", "v": "v_proj"}


class Exporter:
    """Writes one run's model.

    Args:
        settings: root of the task.
        start: the start weights; the text tokenizer is copied from there.
        decoder: in training, with adapters if the method adds some.
        vqgan: the image tokenizer, which no task changes.
    """

    def __init__(self, settings: Finetuning, start: WeightsDir, decoder: Decoder, vqgan: Vqgan) -> None:
        self._settings, self._start, self._decoder, self._vqgan = settings, start, decoder, vqgan
        # Weights that came from a model of weights.toml stay under its licence.
        origin = {} if start.entry is None else {"entry": start.entry.name}
        self.provenance: dict[str, Any] = {
            **origin,
            "stage": "finetune",
            "method": settings.method,
            "seed": settings.train.seed,
            "init": start.fingerprint,
        }

    def export_model(self, directory: Path) -> None:
        """Write decoder, image and text tokenizer; adapters are merged and, of a causal decoder, written apart, too."""
        settings, is_lora = self._start.settings, self._settings.method == "lora"
        if self._start.tokenizer_file is not None:
            save_model(directory, settings, tokenizer_file=self._start.tokenizer_file)
        save_model(directory, settings, vqgan=self._vqgan, provenance=self.provenance)
        decoder = merged(self._decoder) if is_lora else self._decoder
        # What was not trained keeps the numbers, and the size, it came with.
        is_trained = is_lora or any(parameter.requires_grad for parameter in decoder.parameters())
        dtype = None if is_trained else self._start_dtype()
        save_model(directory, settings, decoder=decoder, provenance=self.provenance, dtype=dtype)
        # Apart they are of use to `peft` alone, which would read a decoder that sees images whole as a causal one.
        if is_lora and not self._start.sees_whole_image:
            self._write_adapters(directory / ADAPTER_FOLDER, self._settings.lora)

    def export_findings(
        self,
        directory: Path,
        model: FindingsModel,
        names: tuple[str, ...],
        bias_L: Tensor,
        validated: tuple[Tensor, Tensor],
        patients: Sequence[str],
    ) -> None:
        """Write the model and its head.

        Args:
            directory: of the weights.
            model: with the head's weights.
            names: the findings.
            bias_L: the head's biases.
            validated: logits with these biases, and targets, both (N, L): each threshold is that of the best F1 there.
            patients: of the N validation images.
        """
        self.export_model(directory)
        logit_NL, target_NL = validated
        head = Head(
            labels=names,
            layer=model.layer,
            mean_D=_array(model.mean_D),
            scale_D=_array(model.scale_D),
            weight_KD=_array(model.head.weight),
            bias_K=_array(bias_L),
            slope_K=np.ones(len(names), np.float32),
            offset_K=np.zeros(len(names), np.float32),
            threshold_K=_thresholds(*validated),
            model=open_weights(directory).fingerprint,
            validation=validate_findings(names, logit_NL.double().numpy(), target_NL.double().numpy(), patients),
            provenance={**self.provenance, "thresholds": "best F1 on split 'val'"},
        )
        head.save(directory / HEAD_FILE)

    def _start_dtype(self) -> torch.dtype | None:
        kinds = set(self._start.decoder_source().dtypes.values())
        found = [dtype for dtype, code in dtype_codes().items() if {code} == kinds]
        return found[0] if found else None

    def _write_adapters(self, folder: Path, settings: LoraSettings) -> None:
        """Write the adapters as ``peft`` loads them onto the start weights as a ``PhiForCausalLM``."""
        tensors = {name: value.cpu().contiguous() for name, value in adapter_tensors(self._decoder).items()}
        config = {
            "peft_type": "LORA",
            "task_type": "CAUSAL_LM",
            "r": settings.rank,
            "lora_alpha": settings.alpha,
            "lora_dropout": settings.dropout,
            "target_modules": [_PEFT_NAMES.get(name, name) for name in settings.targets],
            "bias": "none",
        }
        with atomic_write(folder / _ADAPTER_FILE) as file:
            metadata = {"format": "pt", "chexmix": json.dumps(self.provenance)}
            file.write(in_order(save(tensors, metadata=metadata)))
        write_json(folder / _ADAPTER_CONFIG, config)


def _array(values: Tensor) -> np.ndarray[Any, np.dtype[np.float32]]:
    return values.detach().to("cpu", torch.float32).numpy().copy()


def _thresholds(logit_NL: Tensor, target_NL: Tensor) -> np.ndarray[Any, np.dtype[np.float32]]:
    prob_NL = logit_NL.double().sigmoid().numpy()
    found = []
    for finding, target_N in enumerate(target_NL.numpy().T):
        counts_N = ~np.isnan(target_N)
        found.append(best_threshold(target_N[counts_N].astype(np.int64), prob_NL[counts_N, finding]))
    return np.array(found, np.float32)
