"""Properties as bytes: what callcast packs, paho reads."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from callcast.sinks.mqtt.wire import EncodedProperties, correlation, expiry, user_properties

TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=300)


def read(packed: EncodedProperties) -> Properties:
    properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
    _, length = properties.unpack(packed.pack())  # type: ignore[no-untyped-call]
    assert length == len(packed.pack())
    return properties


@given(TEXTS, st.dictionaries(TEXTS, TEXTS, max_size=9), TEXTS, st.integers(1, 0xFFFFFFFF))
def test_paho_reads_what_is_packed(kind: str, pairs: dict[str, str], call_id: str, left_s: int) -> None:
    """Every property, in any language and length, as another implementation decodes it."""
    seen = read(EncodedProperties(kind, user_properties(pairs), correlation(call_id), expiry(left_s)))
    assert (seen.PayloadFormatIndicator, seen.ContentType) == (1, kind)
    assert getattr(seen, "UserProperty", []) == list(pairs.items())
    assert seen.CorrelationData == call_id.encode()
    assert seen.MessageExpiryInterval == left_s


@pytest.mark.parametrize(("left_s", "expected_s"), [(-5, 1), (0, 1), (1, 1), (2**40, 0xFFFFFFFF)])
def test_an_expiry_is_what_the_field_can_hold(left_s: int, expected_s: int) -> None:
    """Never 0, which a broker may take for already over, and never more than four bytes."""
    assert read(EncodedProperties("x", expiry(left_s))).MessageExpiryInterval == expected_s


def test_what_mqtt_cannot_encode_raises() -> None:
    """Two bytes hold the length of a text, and a text has no NUL: a broker would end the connection for it."""
    assert read(EncodedProperties("x", correlation("é" * 32_767))).CorrelationData == ("é" * 32_767).encode()
    for text in ("é" * 32_768, "a\0b", "\ud800"):
        with pytest.raises(ValueError):  # noqa: PT011 (of which the last is Python's own)
            correlation(text)
