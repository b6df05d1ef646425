"""The live calls and the statistics since midnight, in memory. Metrics, page, API and retained topics read them.

`live_calls` changes with each recorded change; `daily_statistics` counts conversations; `stored_counts` rebuilds both
from the outbox at start.
"""
