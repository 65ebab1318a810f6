"""From a raw interaction log to sequences in shards, and the views that training and evaluation use."""

if __name__ == "data_pipeline":  # two names would mean two of each class
    raise ImportError("data_pipeline is a part of seqsweep: import seqsweep.data_pipeline")
