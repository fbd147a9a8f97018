"""The doors: routes and nothing else. Each handler parses, calls one method, and answers.

`app.build` gives one ASGI application: raw ASGI for blobs and the registry door (Quart would copy every byte), Quart
for everything else that decides something. Two come before both: `at_once` gives the small answers that need no
waiting, `files.soon` those of files that need only the disks. Every API has one table from error class to status; the
content API's is `responses.PROBLEMS`, the registry's `registry.refusals.REFUSALS`.
"""
