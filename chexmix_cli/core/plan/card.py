"""What a plan takes a card, and the links between cards, to do: every assumption of ``plan pretrain --cards``."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field

from chexmix_cli.core.settings.checks import require
from chexmix_cli.core.settings.load import build, read_preset

#: The one that is planned for (``settings/presets/card``).
_PRESET = "h100"


@dataclass(frozen=True, kw_only=True, slots=True)
class Card:
    """A card in a node of several, in a cluster of such nodes. Bytes a second are those of one direction.

    Attributes:
        name: of the card.
        bfloat16_flop, float32_flop: most floating-point operations a second.
        product_share, convolution_share, attention_share: of these, reached in products of matrices, convolutions and
            attention.
        memory_bytes: of the card.
        context_bytes: of these, taken before the first tensor.
        memory_rate: most bytes a second that are read and written.
        memory_share: of that, reached.
        launch_s: seconds that the host takes to start an operation.
        cards_per_node: cards with links to each other.
        link_rate: bytes a second from a card to the others of its node.
        network_rate: bytes a second from a card to other nodes; all cards of a node send at once.
        link_share: of either, reached by a collective.
        hop_s: seconds that a collective takes for each card it passes, besides its bytes.
        source: of each figure.
    """

    name: str
    bfloat16_flop: float
    float32_flop: float
    product_share: float
    convolution_share: float
    attention_share: float
    memory_bytes: float
    context_bytes: float
    memory_rate: float
    memory_share: float
    launch_s: float
    cards_per_node: int
    link_rate: float
    network_rate: float
    link_share: float
    hop_s: float
    source: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, value in self.figures().items():
            require(value > 0, f"card.{name}", value, "a positive number")
            require(not name.endswith("_share") or value <= 1, f"card.{name}", value, "at most 1")
            require(name in self.source, f"card.source.{name}", None, "where the figure comes from")

    def figures(self) -> dict[str, float]:
        """Return all figures by name."""
        values = {item.name: getattr(self, item.name) for item in dataclasses.fields(self)}
        return {name: value for name, value in values.items() if name not in {"name", "source"}}

    def flop_rate(self, precision: str) -> float:
        """Return the most operations a second in ``bfloat16`` or ``float32``."""
        return self.bfloat16_flop if precision == "bfloat16" else self.float32_flop

    def bus_rate(self, cards: int) -> float:
        """Return the bytes a second that a ring through so many cards reaches: its slowest link decides."""
        is_one_node = cards <= self.cards_per_node
        across = self.link_rate if is_one_node else min(self.link_rate, self.cards_per_node * self.network_rate)
        return across * self.link_share

    def travel_s(self, num_bytes: float, calls: float, cards: int) -> float:
        """Return the seconds of all-gathers or reduce-scatters of tensors that take ``num_bytes`` together.

        Each card sends and receives all but its own share of them (a ring: Patarasuk and Yuan 2009).
        """
        if cards == 1:
            return 0.0
        return num_bytes * (cards - 1) / cards / self.bus_rate(cards) + calls * self.hop_s * (cards - 1)


def planned_card() -> Card:
    """Return the card that is planned for."""
    return build(Card, read_preset("card", _PRESET))
