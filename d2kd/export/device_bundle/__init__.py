"""A student as a folder that runs where neither d2kd nor torch is."""
