"""Networks: layers, masks, soft prompts and the encoder-decoder that is made of them."""
