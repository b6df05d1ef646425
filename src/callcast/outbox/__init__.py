"""Implementations of `callcast.ports.outbox.Outbox`, one package for each."""
