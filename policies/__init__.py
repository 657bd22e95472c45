"""What the contract says, and nothing else.

Owns: keys and their digests (`keys`), what is known of a key (`record`), plans (`plans`), the classes and
costs of methods (`methods`), quota windows (`quota`), the free month (`trial`), the ladder from an unpaid
invoice to a ban (`standing`), periods of time (`period`), money and prices (`money`, `pricing`) with the
versions of a plan's price (`plan_versions`), and the one decision over a call (`decision`).

Does not own: sockets, stores, files, clocks. Every function takes the time it needs as an argument, an
instant as epoch seconds (`float`) on the hot path and as an aware `datetime` elsewhere. Equal arguments give
equal answers.
"""
