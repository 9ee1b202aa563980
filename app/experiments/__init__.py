"""The commands of `experiment`: paired runs over seeds, with and without a mechanism.

    arms          a trained lattice, a frozen one and none at all, at equal steps
    convergence   discovery waves on and off, from both starts
    optimizers    rules that keep less than AdamW's moments
    plasticity    learning rules beside the gradient, and instead of it
    sparsity      pruned connections against all of them
    transfer      a lattice grown from a smaller one against one from scratch

All of them share the options in `shared_options` and the `statistics`.  All but `arms` also share `experiment` (arms, seeds,
results file), `measure` (one run), `report` and `picture`.  `search` tunes the arms of `convergence`.
"""
