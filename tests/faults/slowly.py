"""Code for :func:`tests.faults.commands.sabotage`: recordings take their time."""

SLOWLY = """
import time
from ray_asd.archive import store

read = store.read_bytes

def slowly(uri):
    if uri.endswith(".wav"):
        time.sleep(1)
    return read(uri)

store.read_bytes = slowly
"""
