"""The wallboard page, its API, metrics and health over HTTP: `server` (routes), `auth`, `sse` (server-sent events),
`serializers`, `listener` (connection limit), `static/` (the page). It only reads live calls and statistics.
"""
