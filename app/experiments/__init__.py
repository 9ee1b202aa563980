"""The commands of `experiment`: paired runs over seeds, with and without a mechanism.

    arms          a trained lattice against a frozen one, none at all, a larger encoder, and a recurrent network
    convergence   discovery waves on and off, from both starts
    optimizers    rules that keep less than AdamW's moments
    plasticity    learning rules beside the gradient, and instead of it
    sparsity      pruned connections against all of them
    transfer      a lattice grown from a smaller one against one from scratch

All of them share the options in `shared_options`, what `experiment` has of arms, the `ledger` (the results file), the
`training_time` and the `statistics`.  All but `arms` also share `measure` (one run), `report` and `picture`.  `search` tunes
the arms of `convergence`.
"""
