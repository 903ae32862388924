"""The command recis-ckpt: looks after snapshots and stores of recis."""
