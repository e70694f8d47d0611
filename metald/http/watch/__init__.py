"""Watching over HTTP: every event of the fleet as it happens, for as many readers as care to look.

`filters` says who gets what, `hub` gives each event to the watchers that asked for it, `sinks` speaks Server-Sent Events
and WebSocket, `stream` leads one watcher from where it stands in the past to the present.
"""
