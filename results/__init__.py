"""What a study leaves behind: metrics, tables, the exported model."""

if __name__ == "results":  # two names would mean two of each class
    raise ImportError("results is a part of seqsweep: import seqsweep.results")
