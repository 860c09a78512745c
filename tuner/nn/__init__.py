"""The few modules of our own; no other folder subclasses `torch.nn.Module`."""
