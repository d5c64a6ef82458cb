"""The Ray programs, one file each. Only here, and in jobs/, is ray imported."""
