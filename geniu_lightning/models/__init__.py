"""Networks: plain `nn.Module`s, without losses, data or Lightning."""
