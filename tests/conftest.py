"""For all tests: PyTorch works with one thread, for its operations here are small, and threads that wait for each other slow a shared machine down."""
import torch

torch.set_num_threads(1)
