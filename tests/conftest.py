"""For every test: hypothesis measures no time. A busy machine is no fault of the code."""

from hypothesis import settings

settings.register_profile("callcast", deadline=None)
settings.load_profile("callcast")
