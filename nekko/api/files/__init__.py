"""The file store: a file by its SHA-256, given or taken, in the protocol of avast's Stor.

`door` answers `/<64 hex>` and `/status`, and `soon` what goes well before any framework sees it; `body` reads what is
uploaded; `refusals` has the one table from error class to status. Errors are a line of plain text.
"""
