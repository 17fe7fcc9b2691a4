import pytest

from phx_proto.client import ClientProtocol
from phx_transports.client.channels import Channels


def test_a_channel_that_another_thread_is_just_making_is_not_there_yet() -> None:
    proto = ClientProtocol("ws://127.0.0.1/socket")
    channels = Channels[str](proto)
    made = proto.channel("room:1")
    assert (channels.get("room:1"), dict(channels)) == (None, {})
    with pytest.raises(KeyError, match="room:1"):
        _ = channels["room:1"]
    made.context = "face"
    assert (channels.get("room:1"), dict(channels)) == ("face", {"room:1": "face"})
