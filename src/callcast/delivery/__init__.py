"""From the outbox to a sink: claim, send, and store the outcome. The only place that retries.

Theory of operation. Each sink has one worker (`worker`), which runs up to `concurrency` senders. A sender claims a
delivery, sends it, stores the outcome, and goes on while any is due. The outcome decides about the delivery
(`ports.retry`: when it is sent again) and about the sink (`circuit_breaker`: healthy, in doubt, or failing). A failing
sink gets no deliveries but recovery probes, each of another call; the first success makes the whole backlog due.
Acknowledgments are stored together while the next deliveries are sent, any other outcome before its sender goes on.

`workers` builds and removes the workers; `reminders` logs every hour which sinks still fail.
"""
