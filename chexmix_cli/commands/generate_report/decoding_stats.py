"""``generate-report --stats``: what decoding cost, on stderr."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping

from chexmix_cli.commands.shared.console import Console

_GIB, _MIB = 2**30, 2**20


def show_costs(costs: Mapping[str, float], console: Console, *, is_json: bool) -> None:
    """Write the figures of ``decode_costs`` on stderr unless quiet: a table, or with ``--json`` a line of JSON."""
    if console.is_quiet:
        return
    if is_json:
        rounded = {name: round(value, 6) if isinstance(value, float) else value for name, value in costs.items()}
        print(json.dumps({"stats": rounded}), file=sys.stderr)
        return
    reused = f", {costs['reused_prompt_tokens']} more were known" if costs["reused_prompt_tokens"] else ""
    rows: list[tuple[str, ...]] = [
        ("reports", f"{costs['reports']}"),
        ("prefill", f"{costs['prefill_tokens_per_s']:.0f} tokens/s, {costs['prompt_tokens']} tokens{reused}"),
        ("first token after", f"{costs['first_token_s']:.3f} s"),
        ("decode", f"{costs['decode_tokens_per_s']:.1f} tokens/s, {costs['decoded_tokens']} tokens"),
        ("passes", f"{costs['passes']}, {costs['tokens_per_row_pass']:.2f} tokens a report and pass"),
        ("drafts", f"{costs['accepted']} of {costs['drafted']} accepted, {costs['acceptance']:.1%}"),
        (
            "bandwidth floor",
            f"{costs['floor_share']:.1%} of the time reads {costs['bytes_per_pass'] / _MIB:.1f} MiB a pass "
            f"at {costs['memory_bytes_per_s'] / _GIB:.1f} GiB/s",
        ),
        ("peak memory", f"{costs['peak_bytes'] / _MIB:.0f} MiB"),
    ]
    console.table("decoding", ("what", "figures"), rows)
