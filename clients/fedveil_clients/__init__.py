"""What runs at a data owner: training on local protected faces, the vault, the owner's policy."""
