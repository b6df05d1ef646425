"""The outbox in one SQLite file, for one service on one machine.

Theory of operation. One thread (`writer`) does all access. It commits all waiting operations together, so that they
share one fsync. `store` is the asynchronous interface; `deliveries` and `calls` hold the statements; `file` keeps the
file open, `schema` locks and migrates it, and `replaced` restores it when it was deleted or replaced; `pruning` deletes
old rows; `admin` serves the commands, also while the service runs. For each call and sink only the oldest pending
delivery can be claimed. So a claim is one read of an index, and the order of a call's events follows by construction.
"""
