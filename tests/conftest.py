"""For every test: hypothesis measures no time (a busy machine is no fault of the code), and tries few examples."""

from hypothesis import settings

from tests.effort import tries

settings.register_profile("callcast", deadline=None, max_examples=tries(40, 2000))
settings.load_profile("callcast")
