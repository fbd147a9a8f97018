"""Announcements: a RabbitMQ server is told of each file that is asked for by its hash, as avast's Stor does.

    a request ── add ──► what waits, bounded ── run ──► exchange, in one thread ──► the server

`announcements` holds what waits and decides when to send and to try again, in the event loop; `exchange` is the
connection, blocking, and the only code that knows pika. It is imported where a server is configured, and by the thread.

A message is the hash as it was typed, to a durable topic exchange. No request waits for any of this: what the server
does not take in time waits in memory, and beyond a limit it is dropped and counted. Messages go in batches, each of
which the server confirms as a whole; one that it did not confirm is sent again, so that a message may come twice.
"""
