"""Metrics, logs and the health of the service: `metrics`, `logs` (with `log_writer`, which never blocks the event
loop), `systemd`, `outbox_health`, `standard_streams`, and `fatal`, which ends the process on a programming error.
"""
