"""Studies as Ray Jobs: sent to a cluster, followed and fetched."""
