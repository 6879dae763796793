"""Who may send, and names of application entities as people write them: ``AE``, ``AE@host``, ``AE@host:port``."""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

from chexmix_cli.core.errors import MachineError, SettingsError

Network: TypeAlias = "ipaddress.IPv4Network | ipaddress.IPv6Network"
#: VR AE: up to 16 characters of the default repertoire without backslash (PS3.5, 6.2); blanks only inside.
_AE_TITLE = re.compile(r"[!-\[\]-~](?:[ -\[\]-~]{0,14}[!-\[\]-~])?")
_ANY = "*"


@dataclass(frozen=True, slots=True)
class Peer:
    """An application entity that may associate.

    Attributes:
        ae_title: that it must call itself, or ``*``.
        networks: that it may call from; None is any.
    """

    ae_title: str
    networks: tuple[Network, ...] | None

    def matches(self, host: str, ae_title: str | None = None) -> bool:
        """Tell whether it may be this: from this address and, where that is known already, of this title."""
        if ae_title is not None and self.ae_title not in (_ANY, ae_title):
            return False
        return self.networks is None or any(_address(host) in network for network in self.networks)


@dataclass(frozen=True, slots=True)
class Address:
    """Where an application entity listens."""

    ae_title: str
    host: str
    port: int

    def __str__(self) -> str:
        return f"{self.ae_title}@{self.host}:{self.port}"


def check_ae_title(text: str, where: str) -> str:
    """Return an AE title.

    Raises:
        SettingsError: if it is none.
    """
    if not _AE_TITLE.fullmatch(text):
        raise SettingsError(f"{text!r} is no AE title", where=where, expected="1 to 16 characters of ASCII, no \\")
    return text


def read_address(text: str, where: str) -> Address:
    """Return ``AE@host:port`` as an address; an IPv6 address stands in brackets.

    Raises:
        SettingsError: if it is none.
    """
    ae_title, _, place = text.rpartition("@")
    host, _, port = place.rpartition(":")
    if not ae_title or not host or not port.isdigit() or not 0 < int(port) < 65536:
        raise SettingsError(f"{text!r} names no application entity", where=where, expected="AE@host:port")
    return Address(check_ae_title(ae_title, where), host.strip("[]"), int(port))


def read_peers(texts: Sequence[str], where: str) -> list[Peer]:
    """Return the peers of ``AE@host`` texts: either part may be ``*``, the host also an address or a network.

    Names are looked up once, here.

    Raises:
        SettingsError: if a text has another form.
        MachineError: if a name has no address.
    """
    return [_peer(text, where) for text in texts]


def _peer(text: str, where: str) -> Peer:
    ae_title, _, host = text.rpartition("@")
    if not ae_title or not host:
        raise SettingsError(f"{text!r} names no peer", where=where, expected="AE@host, AE@*, *@host or *@network")
    if ae_title != _ANY:
        check_ae_title(ae_title, where)
    return Peer(ae_title, None if host == _ANY else _networks(host, where))


def _networks(host: str, where: str) -> tuple[Network, ...]:
    try:
        return (ipaddress.ip_network(host.strip("[]")),)
    except ValueError:
        if "/" in host:
            raise SettingsError(f"{host!r} is no network", where=where, expected="such as 10.1.0.0/16") from None
    try:
        found = socket.getaddrinfo(host, None, proto=socket.IPPROTO_TCP)
    except OSError:
        raise MachineError(f"{host!r} has no address", where=where, hint="give its IP address") from None
    return tuple({ipaddress.ip_network(_address(str(entry[4][0]))) for entry in found})


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """Return an address; one of IPv4 that comes over IPv6 as IPv4."""
    found = ipaddress.ip_address(host.partition("%")[0])
    mapped = found.ipv4_mapped if isinstance(found, ipaddress.IPv6Address) else None
    return mapped or found
