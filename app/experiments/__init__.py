"""`experiment`: paired runs over seeds, with and without a mechanism.

    arms          trained against frozen against no lattice, at equal steps
    convergence   discovery waves on against off, from both starts
    plasticity    learning rules beside and instead of the gradient
    sparsity      pruned against dense

The last three share `experiment` (arms, seeds, results file), `measure` (one run), `search`, `statistics`, `report` and `plot`.
"""
