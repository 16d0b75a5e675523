"""Only the public Internet is fetched from, whatever an address is dressed up as."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dissmodel_platform.storage.addresses import is_public, resolve_by_system

REFUSED_V4 = [
    "0.0.0.0/8",
    "10.0.0.0/8",
    "100.64.0.0/10",
    "127.0.0.0/8",
    "169.254.0.0/16",
    "172.16.0.0/12",
    "192.0.0.0/24",
    "192.0.2.0/24",
    "192.88.99.0/24",
    "192.168.0.0/16",
    "198.18.0.0/15",
    "198.51.100.0/24",
    "203.0.113.0/24",
    "224.0.0.0/4",
    "240.0.0.0/4",
    "168.63.129.16/32",
]
REFUSED_V6 = [
    "::/96",
    "100::/64",
    "64:ff9b:1::/48",
    "2001::/23",
    "2001:db8::/32",
    "2002::/16",
    "3fff::/20",
    "5f00::/16",
    "fc00::/7",
    "fe80::/10",
    "fec0::/10",
    "ff00::/8",
]


@st.composite
def refused_v4(draw: st.DrawFn) -> IPv4Address:
    network = IPv4Network(draw(st.sampled_from(REFUSED_V4)))
    return network[draw(st.integers(0, network.num_addresses - 1))]


@settings(deadline=None)
@given(address=refused_v4())
def test_no_private_or_special_ipv4_address_is_public(address: IPv4Address) -> None:
    assert not is_public(address)


@settings(deadline=None)
@given(address=refused_v4())
def test_nor_is_one_dressed_up_as_ipv6(address: IPv4Address) -> None:
    for prefix in ("::", "::ffff:0:0", "64:ff9b::", "::ffff:0:0:0"):
        assert not is_public(IPv6Address(int(IPv6Address(prefix)) | int(address)))
    assert not is_public(IPv6Address(0x2002 << 112 | int(address) << 80))


@settings(deadline=None)
@given(data=st.data(), network=st.sampled_from(REFUSED_V6))
def test_no_private_or_special_ipv6_address_is_public(data: st.DataObject, network: str) -> None:
    addresses = IPv6Network(network)
    address = addresses[data.draw(st.integers(0, addresses.num_addresses - 1))]
    assert not is_public(address)


@pytest.mark.parametrize(
    "text",
    ["1.1.1.1", "93.184.216.34", "2606:4700:4700::1111", "::ffff:1.1.1.1", "64:ff9b::1.1.1.1"],
)
def test_a_public_address_is_public(text: str) -> None:
    assert is_public(ip_address(text))


@pytest.mark.parametrize("text", ["fe80::1%eth0", "2606:4700:4700::1111%eth0"])
def test_an_address_that_names_an_interface_is_not_public(text: str) -> None:
    assert not is_public(ip_address(text))


@pytest.mark.anyio
@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "127.1", "2130706433", "0x7f000001"])
async def test_every_spelling_of_loopback_resolves_to_it(host: str) -> None:
    addresses = await resolve_by_system(host, 80)
    assert addresses
    assert not any(is_public(address) for address in addresses)
