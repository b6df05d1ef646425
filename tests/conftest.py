"""Settings of every test: hypothesis has no deadline (a busy machine is not a fault) and tries few examples, the user's
data directory is not touched, and Ctrl-C reaches the processes that tests start.
"""

import os
import signal
import tempfile

import pytest
import structlog
from hypothesis import settings

from tests.effort import tries

settings.register_profile("callcast", deadline=None, max_examples=tries(25, 2000))
settings.load_profile("callcast")

# Of each worker process, and inherited by the processes that tests start.
os.environ["XDG_DATA_HOME"] = tempfile.mkdtemp(prefix="callcast-tests-")

# A shell starts background jobs with SIGINT ignored, and child processes inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def _default_logging() -> None:
    """A service that an earlier test ran in this process has set its log level."""
    structlog.reset_defaults()
