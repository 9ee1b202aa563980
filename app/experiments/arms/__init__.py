"""`experiment arms`: what the lattice adds.

    control_arms   which arms there are, by their settings
    scored_run     one run: it trains, is scored every so often, and at the end on all test texts
    findings       what the trained lattice has over the other arms: at equal steps, to a score, at equal CPU seconds
    told           these as tables and sentences, or as JSON
    curves         these as a picture
    command        all of it in order

Arms share sentences, tokens and random numbers, seed by seed.
"""
