"""The only package that knows RingCentral. Its vocabulary is not used outside.

Reading order: `settings`, `client` (implements `ports.upstream.Upstream`), `api` (pages, token, limits), `http` (one
request), `token` and `sign_in`, `rate_limiter`, `decode` (bytes to records), `record_facts` and `interpret` (records
to observations), `vocabulary` (the platform's words), `errors` (meaning of error answers), `call_log`, `hints` (`push`
over `push_connection` and `frames`, and `presence`), `directory`, `platform_clock`, `check` (for `callcast check
--online`).
"""
