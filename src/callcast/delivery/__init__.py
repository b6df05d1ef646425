"""From the outbox to a sink: claim, send, and store the outcome. The only place that retries.

Reading order: `worker` (one sink's deliveries), `circuit_breaker` (is the sink healthy, in doubt or
failing), `reminders` (the hourly log line of a failing sink).
"""
