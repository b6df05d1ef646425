"""The wallboard page, its API, metrics and health over HTTP: `server` (routes), `auth`, `sse` (server-sent events),
`serializers`, `listener` (how many connections), `static/` (the page). Reads live calls and statistics; decides
nothing.
"""
