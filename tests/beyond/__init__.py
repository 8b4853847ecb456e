"""Tests of the commands in `beyond/`: a package, as some bear the name of a module's tests."""
