"""The outbox in one SQLite file, for one service on one machine.

Theory of operation. All access goes through one thread (`writer`), which takes everything that waits as one commit,
so that many operations share one fsync. `store` is the asynchronous face; `deliveries` and `calls` hold the
statements; `schema` opens, locks and migrates the file; `replaced` notices that it was deleted or replaced; `pruning`
forgets; `admin` and `summary` serve the commands, beside a running service too. Of each call and sink only the oldest
pending delivery stands in front, so that a claim is one read of an index and order per call follows by construction.
"""
