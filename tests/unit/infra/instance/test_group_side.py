"""A machine of a group: gloo's network interface."""

from __future__ import annotations

import sys

import pytest

from infra.instance.group_side import gloo_interface, interface_to

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs Linux's network interfaces")


def test_gloo_gets_the_interface_to_the_first_machine_unless_the_user_chose_one() -> None:
    assert gloo_interface({"PIXEL_ORCH_MASTER_ADDR": "127.3.4.5"}) == {"GLOO_SOCKET_IFNAME": "lo"}
    assert gloo_interface({"PIXEL_ORCH_MASTER_ADDR": "127.3.4.5", "GLOO_SOCKET_IFNAME": "ens5"}) == {}
    assert gloo_interface({}) == {}


def test_the_interface_of_an_address_that_is_none_is_not_known() -> None:
    assert interface_to("no.such.host.invalid.") == ""
    assert interface_to("999.1.1.1") == ""
