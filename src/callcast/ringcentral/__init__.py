"""Everything that knows RingCentral; its words stop here.

Reading order: `settings`, `client` (implements `ports.upstream.Upstream`), `api` (pages, token, limits), `http` (one
request), `token` and `sign_in`, `rate_limiter` and `rate_window`, `decode` (bytes to records), `record_facts` and
`interpret` (records to observations), `vocabulary` (the platform's words), `errors` (what a refusal means),
`call_log`, `directory`, `platform_clock`, `check` (for `callcast check --online`).
"""
