"""Bundled tasks that a wire can't do: their answers depend on all words of a sentence, in order.

`named.py` reads `task:NAME,argument=value,...` and gives the training and the test pairs.  Each task has a file, `task.py` says
what all of them have, `sides.py` draws their sentences, and `readers.py` computes how far one gets without reading.  Nothing
here needs torch, and the same arguments give the same sentences on every machine.
"""
