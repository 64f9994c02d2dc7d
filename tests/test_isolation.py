"""The tests' own promise: nothing that they run reaches another machine."""

import errno
import os
import socket

import pytest


@pytest.mark.parametrize("address", [("192.0.2.1", 80), ("example.invalid", 443)])
def test_connections_to_other_machines_fail_at_once(address: tuple[str, int]) -> None:
    with socket.socket() as other, pytest.raises(OSError) as raised:
        other.connect(address)
    assert raised.value.errno == errno.ENETUNREACH


def test_connections_within_this_machine_work() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()):
        accepted, address = server.accept()
        accepted.close()
    assert address[0] == "127.0.0.1"


def test_the_hub_is_switched_off() -> None:
    from huggingface_hub import constants

    assert constants.HF_HUB_OFFLINE
    assert os.environ["GRADIO_ANALYTICS_ENABLED"] == "False"
