"""The wallboard page, its API, metrics and health over HTTP: `server` (routes, connection limit), `auth`, `sse`
(server-sent events), `serializers`, `static/` (the page). It only reads live calls and statistics.
"""
