"""From a credential to recorded changes: everything on the left of the outbox.

Reading order: `poller` (which target is polled when), `recorder` (compare, commit, publish), `backfill` (asks the
call log after a gap), `ownership` (which source watches an extension), `sources` (builds one source), `telemetry`.
Everything here may run again: what is not recorded did not happen.
"""
