"""The ids that data and models must agree on."""

PAD_ITEM_ID = 0  # real items are 1..num_items
MASK_ITEM_ID = -1  # in place of an item that is to be guessed
