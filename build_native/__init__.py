"""How setup.py compiles the native core: csrc/abi.h read once, objects compiled only if what they depend on changed."""
