"""`experiment`: paired runs over seeds, with and without a mechanism.

    arms          trained against frozen against no lattice, at equal steps
    convergence   discovery waves on against off, from both starts
    optimizers    rules that keep less than AdamW's moments
    plasticity    learning rules beside and instead of the gradient
    sparsity      pruned against dense

All but `arms` share `experiment` (arms, seeds, results file), `measure` (one run), `search`, `statistics`, `report` and `plot`.
"""
