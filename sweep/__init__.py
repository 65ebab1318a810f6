"""The service: propose, run, stop, resume, export."""

if __name__ == "sweep":  # two names would mean two of each class
    raise ImportError("sweep is a part of seqsweep: import seqsweep.sweep")
