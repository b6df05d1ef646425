"""A fake RingCentral for the demo, the tests and other people's tests."""
