"""The operators of RWKV: reference.py defines them and judges every faster form."""
