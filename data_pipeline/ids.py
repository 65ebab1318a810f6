"""The one id that data and models must agree on."""

PAD_ITEM_ID = 0  # real items are 1..num_items
