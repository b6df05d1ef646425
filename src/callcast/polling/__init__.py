"""Polls sources and records what changed: everything before the outbox.

Reading order: `poller` (which target is polled when), `recorder` (compare, commit, publish), `backfill` (reads the
call log after a gap), `ownership` (which source watches an extension), `sources` (builds one source), `telemetry`.
Everything here may run again: a change counts only once it is recorded.
"""
