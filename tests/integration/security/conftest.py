import asyncio
from collections.abc import Callable, Mapping

import pytest

LoopFactory = Callable[[], asyncio.AbstractEventLoop]


def pytest_asyncio_loop_factories(item: pytest.Item) -> Mapping[str, LoopFactory]:
    """A module's tests run once on each loop of its `LOOP_FACTORIES`."""
    factories: Mapping[str, LoopFactory] = getattr(
        getattr(item, "module", None), "LOOP_FACTORIES", {"asyncio": asyncio.new_event_loop}
    )
    return factories
