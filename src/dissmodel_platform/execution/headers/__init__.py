"""What GeoTIFF and GeoPackage files say of themselves, read in a process of its own.

These files are the work of foreign code, so nothing here runs in the worker but `reader`. The other
modules need the standard library only: the process starts in the time of a bare interpreter.
"""
