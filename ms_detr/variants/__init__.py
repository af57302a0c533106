"""Methods that are more than a composition of the model's parts: one small file each."""
