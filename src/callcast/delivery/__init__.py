"""From the outbox to a sink: claim, send, settle. The only place that retries.

Reading order: `worker` (one sink's deliveries), `circuit_breaker` (healthy, in doubt, failing), `reminders` (the
hourly log line of a failing sink).
"""
