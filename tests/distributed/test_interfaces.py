"""Which network interface a worker takes, and what of the user's settings stays."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from reasoner_rl.distributed import interfaces
from reasoner_rl.distributed.interfaces import (
    GLOO,
    NCCL,
    VLLM,
    interface_of,
    interfaces_here,
    loopback_of,
    network_of,
    own_address,
    user_settings,
)
from reasoner_rl.errors import UserError

MACHINE = {
    "lo": ["127.0.0.1", "::1"],
    "docker0": ["172.17.0.1"],
    "eth0": ["192.168.7.4", "fe80::5054:ff:fe12:3456%eth0", "2001:db8::7"],
    "eth0:1": ["192.168.9.4"],
}


@pytest.mark.parametrize(
    ("address", "interface"),
    [
        ("192.168.7.4", "eth0"),
        ("192.168.9.4", "eth0:1"),
        ("172.17.0.1", "docker0"),
        ("127.0.0.1", "lo"),
        ("2001:0db8:0::7", "eth0"),
        ("[2001:db8::7]", "eth0"),
        ("fe80::5054:ff:fe12:3456", "eth0"),
        ("192.168.7.40", None),
        ("203.0.113.9", None),
        ("node7.cluster", None),
    ],
)
def test_the_interface_is_the_one_that_has_the_address(address: str, interface: str | None) -> None:
    assert interface_of(address, MACHINE) == interface


def test_gloo_and_nccl_get_that_interface_and_vllm_the_address() -> None:
    network = network_of("192.168.7.4", MACHINE, {})
    assert network.variables() == {GLOO: "eth0", NCCL: "=eth0", VLLM: "192.168.7.4"}
    assert str(network) == "192.168.7.4, interface eth0"


def test_the_second_name_of_an_interface_is_no_port_to_nccl() -> None:
    variables = network_of("192.168.9.4", MACHINE, {}).variables()
    assert (variables[GLOO], variables[NCCL]) == ("eth0:1", "eth0")


def test_what_the_user_set_stays_and_is_told() -> None:
    network = network_of("192.168.7.4", MACHINE, {NCCL: "^docker0", VLLM: "172.17.0.1"})
    assert network.variables() == {GLOO: "eth0"}
    assert str(network) == "192.168.7.4, interface eth0, NCCL_SOCKET_IFNAME=^docker0, VLLM_HOST_IP=172.17.0.1"


def test_an_address_of_no_interface_leaves_the_choice_to_the_libraries() -> None:
    network = network_of("203.0.113.9", MACHINE, {})
    assert network.variables() == {VLLM: "203.0.113.9"}
    assert str(network) == "203.0.113.9, on no interface of it"


def test_an_interface_that_is_not_there_is_refused() -> None:
    told = (
        rf"^GLOO_SOCKET_IFNAME=eth0,ib0: machine {socket.gethostname()} has no interface ib0; it has lo, doc"
    )
    with pytest.raises(UserError, match=told):
        network_of("192.168.7.4", MACHINE, {GLOO: "eth0,ib0"})


def test_what_the_user_set_is_read_from_the_environment_and_from_nccls_files(tmp_path: Path) -> None:
    file, system = tmp_path / "nccl.conf", tmp_path / "system.conf"
    file.write_text("NCCL_DEBUG=WARN\n# NCCL_SOCKET_IFNAME=eth9\nNCCL_SOCKET_IFNAME=ib\n")
    system.write_text("NCCL_SOCKET_IFNAME=eth1\n")
    files = [file, tmp_path / "none.conf", system]
    assert user_settings({GLOO: "eth1", VLLM: "", "HOME": "/"}, files) == {GLOO: "eth1", NCCL: "ib"}
    assert user_settings({NCCL: "eth2"}, files) == {NCCL: "eth2"}
    assert user_settings({}, []) == {}
    assert user_settings({"NCCL_CONF_FILE": str(system)})[NCCL] == "eth1"


def test_loopback_names_and_addresses_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    assert interface_of("127.0.0.1", interfaces_here()) in ("lo", "lo0")
    assert loopback_of("localhost") in ("127.0.0.1", "::1")
    assert loopback_of("192.168.7.4") is None
    assert loopback_of("no-such-host.invalid") is None
    monkeypatch.setattr(interfaces, "_FAR_AWAY", ("127.0.0.1", 80))
    assert own_address(MACHINE) == "127.0.0.1", "the address by which the route leaves"
    monkeypatch.setattr(interfaces, "_FAR_AWAY", ("255.255.255.255", 80))  # connecting there is refused
    assert own_address(MACHINE) == "172.17.0.1", "without a route, the first that is no loopback address"
    assert own_address({"lo": ["127.0.0.1"]}) is None


def test_workers_on_other_machines_get_the_drivers_settings_but_not_its_address(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip("ray")
    pytest.importorskip("verl")
    from reasoner_rl.config.cluster import RayClusterConfig
    from reasoner_rl.distributed.ray.resources import worker_environment

    for name, value in ((GLOO, "eth1"), (NCCL, "ib"), (VLLM, "192.168.7.4"), ("VLLM_API_KEY", "secret")):
        monkeypatch.setenv(name, value)
    passed = worker_environment(RayClusterConfig(kind="ray"), use_gpu=False)
    assert (passed[GLOO], passed[NCCL]) == ("eth1", "ib")
    assert VLLM not in passed
    assert "VLLM_API_KEY" not in passed
