"""The live calls and the statistics since midnight, in memory: read by metrics, page, API and retained topics.

`live_calls` changes with each recorded change and is rebuilt from the outbox at start; `daily_statistics` counts
conversations.
"""
