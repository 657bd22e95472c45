"""A marketplace for trying things out: an API shaped like OTAPI, a REST face and a TOP face over a made-up
catalogue.

Owns: a catalogue made from a seed (`catalogue`), the methods over it (`marketplace`, `rest`, `top`), the two
formats of answers (`answers`), the switches by which a caller asks for trouble (`switches`), and a journal of
what arrived, byte for byte (`journal`). It reads requests as old servers do: raw spaces and raw Cyrillic in a
request target are fine.

It is a program of its own, `python -m demo`. It knows nothing of the gateway in front of it.
"""
