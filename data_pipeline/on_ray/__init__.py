"""The same preparation on a cluster, with Ray Data."""
