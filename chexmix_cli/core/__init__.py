"""The shared core: a library that never prints and never exits. Import the subpackages you need."""
