import torch

# One thread: these models are tiny, and threads of several test processes on few cores wait for each other.
torch.set_num_threads(1)
