"""The data path: a client's call on its way to the upstream and back.

Nouns: a *front* is a client's connection, an *exchange* is one call on it, an *upstream connection* carries
one exchange at a time and is kept for the next, the *proxy* is what all of a worker's connections share.
Callbacks run the path from one to the next; no task is made for a call.
"""
