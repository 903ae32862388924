"""`python -m recis_ckpt`."""

from recis_ckpt.main import app

app(prog_name="recis-ckpt")
