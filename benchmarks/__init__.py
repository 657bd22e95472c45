"""Side-by-side measurements of the gateway and of other ways to do its job; `python -m benchmarks` runs them.

This package owns the peers, their set-up, the load, the upstream and the report. It imports nothing of the
gateway but what is needed to configure it and to read its counters.

    workload   what is asked and how: GET or POST, size of the answer, number of connections
    peer       a proxy that finds a key's record, checks its state and day limit, counts the call, forwards it
    origin     the upstream behind every peer, the same process for all of them
    turn       one peer under one workload for a few seconds; a round gives every peer one turn
"""
