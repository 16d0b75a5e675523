"""Which network addresses an input may come from: the public Internet's, and no others.

A server that fetches what its users name can be made to ask its own machine, its neighbours or its
cloud's metadata service in their stead. So addresses are checked after the name is resolved, and
the connection goes to the address that was checked (see `remote`).
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import Protocol

Address = IPv4Address | IPv6Address

# What `ipaddress` takes for global, or took in some release, beside what is multicast or reserved.
_REFUSED_V4 = (
    IPv4Network("100.64.0.0/10"),  # shared by a provider's customers (RFC 6598)
    IPv4Network("168.63.129.16/32"),  # Azure's own services, on a public-looking address
    IPv4Network("192.0.0.0/24"),  # protocol assignments (RFC 6890), a cloud's metadata among them
    IPv4Network("192.88.99.0/24"),  # 6to4 relays (RFC 7526)
)
# Every public IPv6 address is global unicast (RFC 4291, section 2.4), or an IPv4 one in disguise.
_GLOBAL_UNICAST_V6 = IPv6Network("2000::/3")
_NAT64 = IPv6Network("64:ff9b::/96")  # RFC 6052: the last 32 bits are an IPv4 address
_REFUSED_V6 = (
    IPv6Network("2001::/23"),  # protocol assignments, Teredo tunnels among them (RFC 4380)
    IPv6Network("2001:db8::/32"),  # documentation
    IPv6Network("2002::/16"),  # 6to4 tunnels, which lead to any IPv4 address (RFC 3056)
    IPv6Network("3fff::/20"),  # documentation (RFC 9637)
)


class Resolver(Protocol):
    """Finds the addresses of a name; raises `OSError` where there is none."""

    async def __call__(self, host: str, port: int) -> Sequence[Address]:
        """Return the addresses of `host`, the preferred one first."""


async def resolve_by_system(host: str, port: int) -> Sequence[Address]:
    """Resolve a name as every program on this machine does."""
    loop = asyncio.get_running_loop()
    answers = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [ip_address(str(address[0])) for *_, address in answers]


def is_public(address: Address) -> bool:
    """Whether an address belongs to the public Internet and to one machine of it.

    Refused are loopback, private, shared (CGNAT), link-local, multicast, reserved, unspecified and
    documentation addresses, tunnels whose end cannot be seen, and all of these inside IPv4-mapped
    and NAT64 addresses. (NAT64 as such is allowed: on a network with IPv6 alone every IPv4 server
    has such an address.)
    """
    if isinstance(address, IPv4Address):
        return (
            address.is_global
            and not address.is_multicast
            and not address.is_reserved
            and not any(address in network for network in _REFUSED_V4)
        )
    if address.ipv4_mapped is not None:
        return is_public(address.ipv4_mapped)
    if address in _NAT64:
        return is_public(IPv4Address(int(address) & 0xFFFF_FFFF))
    return (
        address.scope_id is None
        and address in _GLOBAL_UNICAST_V6
        and address.is_global
        and not any(address in network for network in _REFUSED_V6)
    )
