"""The grammar of AMQP URIs."""

import pytest

from nekko.config.amqp import Broker, parse_broker
from nekko.errors import ConfigInvalidError


@pytest.mark.parametrize(
    ("text", "broker"),
    [
        ("amqp://guest:guest@localhost/stor", Broker("amqp", "localhost", 5672, "stor")),
        ("amqp://localhost", Broker("amqp", "localhost", 5672, "/", "guest", "guest", "stor", "sha", 60)),
        ("amqp://localhost/", Broker("amqp", "localhost", 5672)),
        ("amqp://localhost/%2F", Broker("amqp", "localhost", 5672)),
        ("amqp://localhost/a%2Fb", Broker("amqp", "localhost", 5672, "a/b")),
        ("AMQPS://Mq.example.com", Broker("amqps", "mq.example.com", 5671)),
        ("amqp://[::1]:5673", Broker("amqp", "::1", 5673)),
        ("amqp://ann:p%40ss%3Aw%2F@h", Broker("amqp", "h", 5672, "/", "ann", "p@ss:w/")),
        ("amqp://ann@h", Broker("amqp", "h", 5672, "/", "ann", "guest")),
        ("amqp://ann:@h", Broker("amqp", "h", 5672, "/", "ann", "")),
        (
            "amqp://h/v?exchange=other&routing_key=test&heartbeat=0",
            Broker("amqp", "h", 5672, "v", exchange="other", routing_key="test", heartbeat_seconds=0),
        ),
        ("amqp://h?routing_key=", Broker("amqp", "h", 5672, routing_key="")),
        (f"amqp://h?exchange={'x' * 255}", Broker("amqp", "h", 5672, exchange="x" * 255)),
    ],
)
def test_uri_is_read(text: str, broker: Broker) -> None:
    assert parse_broker(text) == broker


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("http://s3cret", "begins with neither"),
        ("amqpx://s3cret", "begins with neither"),
        ("s3cret", "begins with neither"),
        ("amqp:s3cret", "no host"),
        ("amqp://", "no host"),
        ("amqp://ann:s3cret@", "no host"),
        ("amqp://ann:s3cret@h:0", "port 0"),
        ("amqp://ann:s3cret@h:70000", "cannot be read"),
        ("amqp://ann:s3cret", "cannot be read"),
        ("amqp://ann:s3cret@[::1", "cannot be read"),
        ("amqp://ann:x/s3cret@h", "cannot be read"),
        ("amqp://ann:x#s3cret@h", "cannot be read"),
        ("amqp://ann:s3cret@h/\udcff", "cannot be read"),
        ("amqp://ann:s3cret@h i", "no host"),
        ("amqp://ann:s3cret@h#f", "written as %XX"),
        ("amqp://ann:s3cret@h/a/b", "written with %2F"),
        ("amqp://ann:s3cret@h?exchange", "cannot be read"),
        ("amqp://ann:s3cret@h?exchange=", "exchange has to have 1 to 255 bytes"),
        (f"amqp://ann:s3cret@h?exchange={'ü' * 128}", "exchange has to have 1 to 255 bytes"),
        (f"amqp://ann:s3cret@h?routing_key={'x' * 256}", "routing_key has to have 0 to 255 bytes"),
        (f"amqp://ann:s3cret@h/{'x' * 256}", "virtual host has to have 1 to 255 bytes"),
        ("amqp://ann:s3cret@h?heartbeat=soon", "heartbeat has to be seconds"),
        ("amqp://ann:s3cret@h?heartbeat=-1", "heartbeat has to be seconds"),
        ("amqp://ann:s3cret@h?heartbeat=65536", "heartbeat has to be seconds from 0 to 65535"),
        ("amqp://ann:s3cret@h?exchange=a&exchange=b", "one is there twice"),
        ("amqp://ann:s3cret@h?channel_max=4", "options are exchange, routing_key, heartbeat; 'channel_max' is none"),
    ],
)
def test_other_text_is_refused_and_not_shown(text: str, words: str) -> None:
    with pytest.raises(ConfigInvalidError, match="not an AMQP URI") as refusal:
        parse_broker(text)
    assert words in str(refusal.value)
    assert "s3cret" not in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_text_of_a_broker_has_no_password() -> None:
    broker = parse_broker("amqp://ann:s3cret@[::1]/a%2Fb")
    assert str(broker) == "amqp://[::1]:5672/a%2Fb"
    assert "s3cret" not in repr(broker)
