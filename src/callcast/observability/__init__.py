"""What callcast says about itself: `metrics`, `logs` (with `log_writer`, which never blocks the loop), `systemd`,
`outbox_health`, `standard_streams`, and `fatal`, the one channel for faults of the program. Nothing here decides
anything.
"""
