"""From the columns of a log to shards: filters, order, numbering, and what is added later."""
