"""Pictures, one file a kind: of runs, of faces, of frontiers, of ledgers; `style` is the look of them all."""
