"""Speed against real peers, in one run on one machine: `python -m bench`, or `make bench`.

`rows` names every row of the table; `measure` runs the cases of one row in turn and judges them by its targets. `cold`,
`mirror`, `serving`, `small` and `size` hold the rows; `site` is what they share: the web server, the registry, the Hub
and their files. `daemon` and `command` run what is measured; `floor`, `hub` and `ask` are programs of their own.

Client, server and peers share the machine's cores, so only ratios within one row mean anything.
"""
