"""The live calls and the statistics since midnight, in memory. Metrics, page, API and retained topics read them.

`live_calls` changes with each recorded change and is rebuilt from the outbox at start; `daily_statistics` counts
conversations.
"""
