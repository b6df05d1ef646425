"""Stores that keep the promises of `callcast.ports.outbox.Outbox`; one package for each."""
