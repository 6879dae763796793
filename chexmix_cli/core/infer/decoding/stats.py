"""What an engine counts while it decodes."""

from __future__ import annotations

from dataclasses import dataclass, fields


@dataclass(slots=True)
class EngineStats:
    """Counters of an engine since it was made, or of one call.

    Attributes:
        num_reports: prompts decoded.
        num_prompt_tokens: tokens read by prefill, padding not counted.
        num_reused_tokens: those of prompts that were read before, or once for several reports.
        num_decoded_tokens: tokens chosen after the first of each report, which prefill pays for.
        num_passes: passes of the decoder after prefill.
        num_drafted: drafts that those passes read; num_accepted: those of them that turned out right.
        num_attended: slots of the key-value cache that those passes read, all rows together.
        prefill_s: seconds up to the first token of each call, summed.
        decode_s: seconds after it.
        first_token_s: seconds up to the first token of the first call; None before it.
    """

    num_reports: int = 0
    num_prompt_tokens: int = 0
    num_reused_tokens: int = 0
    num_decoded_tokens: int = 0
    num_passes: int = 0
    num_drafted: int = 0
    num_accepted: int = 0
    num_attended: int = 0
    prefill_s: float = 0.0
    decode_s: float = 0.0
    first_token_s: float | None = None

    def add(self, call: EngineStats) -> None:
        """Add one call."""
        if self.first_token_s is None:
            self.first_token_s = call.prefill_s
        for name in _SUMMED:
            setattr(self, name, getattr(self, name) + getattr(call, name))

    @property
    def acceptance(self) -> float:
        """Return the share of drafts that turned out right; 0 while there are none."""
        return self.num_accepted / self.num_drafted if self.num_drafted else 0.0

    @property
    def tokens_per_row_pass(self) -> float:
        """Return tokens that a report gains in a pass, 1 without drafts; 0 while there are none."""
        # A row gains one token in every pass it is in, and one for each draft that was right.
        num_row_passes = self.num_decoded_tokens - self.num_accepted
        return self.num_decoded_tokens / num_row_passes if num_row_passes else 0.0

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
        """Return passes a second, which without drafts is the rate of one row; 0 while there are none."""
        return self.num_passes / self.decode_s if self.decode_s else 0.0


_SUMMED = [one.name for one in fields(EngineStats) if one.name != "first_token_s"]
