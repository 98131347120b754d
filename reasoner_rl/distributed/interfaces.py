"""Which network interface the processes of a run talk through.

Left alone, gloo takes the address that the machine's own name resolves to. As Debian and Ubuntu install a machine, that
is a loopback address, which other machines cannot reach. NCCL takes the interfaces that it finds first. Here both get
the interface that has the address by which Ray knows the machine, since other machines reach it by that.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil  # type: ignore[import-untyped]

from reasoner_rl.errors import UserError

GLOO, NCCL, VLLM = "GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME", "VLLM_HOST_IP"
_FAR_AWAY = ("8.8.8.8", 80)  # any address that only the default route leads to; nothing is sent there


@dataclass(frozen=True, slots=True)
class Network:
    """How a worker reaches the others.

    address: by which Ray knows the machine. interface: the one with that address; None if there is none, as behind
    network address translation. by_user: what the user had set, and what therefore stays: variable -> value.
    """

    address: str
    interface: str | None
    by_user: Mapping[str, str]

    def variables(self) -> dict[str, str]:
        """What is to be added to the worker's environment before it joins a process group."""
        # For vLLM's messages between machines, which otherwise take the default route.
        chosen = {VLLM: self.address}
        if self.interface is not None:
            # NCCL takes a name for the beginning of one, unless "=" precedes it; what follows a colon is a port to it.
            alias = ":" in self.interface
            exactly = self.interface.partition(":")[0] if alias else f"={self.interface}"
            chosen |= {GLOO: self.interface, NCCL: exactly}
        return {name: value for name, value in chosen.items() if name not in self.by_user}

    def __str__(self) -> str:
        interface = f"interface {self.interface}" if self.interface else "on no interface of it"
        return ", ".join(
            [self.address, interface, *(f"{name}={value}" for name, value in self.by_user.items())]
        )


def interfaces_here() -> dict[str, list[str]]:
    """The network interfaces of this machine, each with its addresses."""
    families = (socket.AF_INET, socket.AF_INET6)
    return {
        name: [address.address for address in addresses if address.family in families]
        for name, addresses in psutil.net_if_addrs().items()
    }


def interface_of(address: str, interfaces: Mapping[str, Sequence[str]]) -> str | None:
    """The first interface that has the address, however it is written; None if none has.

    address: IPv4 or IPv6, the latter also in brackets or with its zone, as in fe80::1%eth0.
    """
    wanted = _plain(address)
    return next((name for name, own in interfaces.items() if wanted in map(_plain, own)), None)


def _plain(address: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | str:
    bare = address.strip("[]").partition("%")[0]
    try:
        return ipaddress.ip_address(bare)
    except ValueError:
        return bare  # a name, that no interface has


def _is_loopback(address: str) -> bool:
    plain = _plain(address)
    return not isinstance(plain, str) and plain.is_loopback


def own_address(interfaces: Mapping[str, Sequence[str]]) -> str | None:
    """The address that this machine has towards others, as Ray finds it: the default route's, and nothing is sent.

    Without a route, the first address of ``interfaces`` that is no loopback address; None if there is none.
    """
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect(_FAR_AWAY)
            return str(probe.getsockname()[0])
    except OSError:
        addresses = [address for own in interfaces.values() for address in own]
        return next((address for address in addresses if not _is_loopback(address)), None)


def loopback_of(name: str) -> str | None:
    """The first loopback address that a host name resolves to here; None if there is none or the name is unknown."""
    try:
        found = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
    except OSError:
        return None
    addresses = [str(entry[4][0]) for entry in found]
    return next(filter(_is_loopback, addresses), None)


def network_of(
    address: str, interfaces: Mapping[str, Sequence[str]], set_by_user: Mapping[str, str]
) -> Network:
    """Choose a worker's interface.

    address: by which Ray knows the worker's machine. set_by_user: see `user_settings`.
    Raises UserError if GLOO_SOCKET_IFNAME names an interface that is not there.
    """
    for name in set_by_user.get(GLOO, "").split(","):
        if name and name not in interfaces:
            raise UserError(
                f"{GLOO}={set_by_user[GLOO]}: machine {socket.gethostname()} has no interface {name}; it has "
                + ", ".join(interfaces)
            )
    return Network(address, interface_of(address, interfaces), dict(set_by_user))


def user_settings(environment: Mapping[str, str], files: Sequence[Path] | None = None) -> dict[str, str]:
    """What of the network is set already, in the environment or in NCCL's configuration files: variable -> value.

    files: those of this machine unless given.
    """
    found = {name: environment[name] for name in (GLOO, NCCL, VLLM) if environment.get(name)}
    if NCCL not in found:
        if files is None:
            own = environment.get("NCCL_CONF_FILE") or "~/.nccl.conf"
            files = [Path(path).expanduser() for path in (own, "/etc/nccl.conf")]
        for line in (line for file in files if file.is_file() for line in file.read_text().splitlines()):
            name, _, value = line.partition("=")
            if name.strip() == NCCL and value:
                found.setdefault(NCCL, value.strip())
    return found
