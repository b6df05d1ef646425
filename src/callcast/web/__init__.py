"""The wallboard page, its API, metrics and health over HTTP."""
