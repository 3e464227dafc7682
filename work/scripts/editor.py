import sys, torch
torch.set_num_threads(1)
from ip2p.training import train
from ip2p.dataset.shards import read_pairs
rows=read_pairs("out/stock/pairs")
print(len(rows), "pairs", flush=True)
train(rows, "out/stock/editor", "mini", steps=int(sys.argv[1]), lr=float(sys.argv[2]), start="data/models/mini-ip2p", dtype="bfloat16", save_minutes=4.0)
