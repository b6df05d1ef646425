"""Stores that keep the promises of `callcast.core.outbox.Outbox`."""
