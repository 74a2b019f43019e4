import torch

# Two spinning threads on a busy machine are many times slower than one (and one is enough for these sizes).
torch.set_num_threads(1)
