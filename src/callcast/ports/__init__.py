"""What the core expects of the outside, as protocols and plain data. No implementation, no I/O.

`upstream` (the platform), `outbox` (the store), `sink`, `live_calls`, `clock`, `connectivity`, `retry`. An
implementation imports its port; the core imports ports only and never an implementation.
"""
