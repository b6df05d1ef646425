"""docs/events.md agrees with the code."""

import importlib.util
from types import ModuleType

from callcast.calls.model import EVENT_TYPES, Disposition
from callcast.ringcentral.vocabulary import RESULTS
from tests import ROOT

DOCS = ROOT / "docs"


def make_events() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_events", DOCS / "make_events.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_of_events_is_up_to_date() -> None:
    """`python docs/make_events.py` would write what is there."""
    assert make_events().page() == (DOCS / "events.md").read_text()


def test_the_page_has_every_type_and_every_word() -> None:
    """Each event type has an example; each disposition and each result is listed."""
    text = (DOCS / "events.md").read_text()
    for kind in EVENT_TYPES:
        assert f'"type": "{kind}"' in text
    for disposition in Disposition:
        assert f"`{disposition}`" in text
    for words in RESULTS.values():
        for word in words:
            assert word in text
