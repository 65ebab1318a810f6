"""What training and ranking read of a prepared log: batches, tensors on a device, seen items."""
