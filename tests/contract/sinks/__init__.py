"""The remote sides against which the built-in sinks are tested: one module for each type, with the type's name.

`REMOTE_SIDES` maps a name to a function that makes a remote side, given an empty folder.
"""

from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from pathlib import Path

from callcast.testing import RemoteSide

RemoteSides = Mapping[str, Callable[[Path], AbstractAsyncContextManager[RemoteSide]]]
