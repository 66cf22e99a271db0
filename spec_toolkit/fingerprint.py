"""A problem's fingerprint: a hash of each of its tensors, by which a write into an input is seen."""
import torch


def input_tensors(problem):
    """name -> tensor of every tensor that a problem holds."""
    return {name: value for name, value in vars(problem).items() if isinstance(value, torch.Tensor)}


def fingerprints(problem):
    """name -> `fingerprint` of every tensor that a problem holds."""
    return {name: fingerprint(tensor) for name, tensor in input_tensors(problem).items()}


def fingerprint(tensor, chunk=1 << 22):
    """64-bit hash of a tensor's whole storage, padding included, computed where the tensor lives.

    A sum of 32-bit words times odd multipliers modulo 2^64: a change of one word changes it for certain.
    """
    storage = tensor.untyped_storage()
    flat = torch.empty(0, dtype=torch.uint8, device=tensor.device).set_(storage)
    if flat.numel() % 4 == 0:
        flat = flat.view(torch.int32)
    index = torch.arange(min(chunk, flat.numel()), device=tensor.device)
    factors, total = _mixed(index) | 1, flat.numel()
    for start in range(0, flat.numel(), chunk):
        part = flat[start:start + chunk].long()
        total = (total * 6364136223846793005 + int((part * factors[:part.numel()]).sum())) % 2**64
    return total


def _mixed(index):
    x = (index + 1) * 0x1E3779B97F4A7C15  # wraps around, as intended
    return (x ^ (x >> 29)) * 0x3F58476D1CE4E5B9
