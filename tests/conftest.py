"""For every test: hypothesis measures no time (a busy machine is no fault of the code), and tries few examples; the
user's own data directory is not touched.
"""

import os
import tempfile

from hypothesis import settings

from tests.effort import tries

settings.register_profile("callcast", deadline=None, max_examples=tries(40, 2000))
settings.load_profile("callcast")

# Of each worker process, and inherited by the processes that tests start.
os.environ["XDG_DATA_HOME"] = tempfile.mkdtemp(prefix="callcast-tests-")
