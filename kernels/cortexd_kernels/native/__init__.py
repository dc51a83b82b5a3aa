"""RWKV-7 on the CPU in compiled code, without PyTorch's operators: opened by `library.open_native`, or absent with a reason.

`library` imports no torch, so that whoever computes nothing can ask as well.
"""
