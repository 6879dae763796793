"""What decoding cost, for ``--stats`` and benchmarks."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class EngineStats:
    """Counters of an engine since it was made.

    Attributes:
        num_reports: prompts decoded.
        num_prompt_tokens: tokens read by prefill, padding not counted.
        num_decoded_tokens: tokens chosen after the first of each report, which prefill pays for.
        num_passes: passes of the decoder after prefill.
        prefill_s: seconds up to the first token of each call, summed.
        decode_s: seconds after it.
        first_token_s: seconds up to the first token of the first call; None before it.
    """

    num_reports: int = 0
    num_prompt_tokens: int = 0
    num_decoded_tokens: int = 0
    num_passes: int = 0
    prefill_s: float = 0.0
    decode_s: float = 0.0
    first_token_s: float | None = None

    def count(
        self,
        *,
        num_reports: int,
        num_prompt_tokens: int,
        num_decoded_tokens: int,
        num_passes: int,
        prefill_s: float,
        decode_s: float,
    ) -> None:
        """Add one call."""
        self.num_reports += num_reports
        self.num_prompt_tokens += num_prompt_tokens
        self.num_decoded_tokens += num_decoded_tokens
        self.num_passes += num_passes
        self.prefill_s += prefill_s
        self.decode_s += decode_s
        if self.first_token_s is None:
            self.first_token_s = prefill_s

    @property
    def prefill_tokens_per_s(self) -> float:
        """Return prompt tokens read a second; 0 before the first call."""
        return self.num_prompt_tokens / self.prefill_s if self.prefill_s else 0.0

    @property
    def decode_tokens_per_s(self) -> float:
        """Return tokens decoded a second, all rows together; 0 while there are none."""
        return self.num_decoded_tokens / self.decode_s if self.decode_s else 0.0

    @property
    def decode_passes_per_s(self) -> float:
        """Return passes a second, which is the rate of one row; 0 while there are none."""
        return self.num_passes / self.decode_s if self.decode_s else 0.0
