"""Speed against real peers, in one run on one machine: `python -m bench`, or `make bench`.

Client, server and peers share the machine's cores, so only ratios within one table mean anything.
"""
