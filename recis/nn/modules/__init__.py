"""The modules behind `recis.nn`."""
