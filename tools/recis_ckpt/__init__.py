"""`recis-ckpt`: what is in a snapshot or a store, whether it is whole, and how to change it."""
