"""Events and calls as the bytes that consumers see (contract 4)."""
