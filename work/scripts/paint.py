import random, torch
torch.set_num_threads(1)
from dataclasses import replace
from ip2p.dataset.triplets import read_triplets
from ip2p.factory.pairs import make_pairs
from ip2p.miniworld import parse
from ip2p.miniworld.scene import difference, edit_kind
from ip2p.profiles import MINI
W={"count":2,"position":2,"add":2,"size":1.3,"remove":1.3,"kind":1.3,"several":.3}
t=read_triplets("data/triplets/generated.jsonl")
rng=random.Random(5)
def pri(x):
    a,b=parse(x["input"]),parse(x["output"])
    w=W.get(edit_kind(a,b),1)
    if {"hat","birds"} & set(difference(a,b)): w*=2
    return rng.expovariate(w)
t=sorted(t,key=pri)
import json
open("out/stock/ordered.jsonl","w").writelines(json.dumps(x)+"\n" for x in t)

make_pairs(t,"out/stock/candidates",MINI,candidates=3,per_seed=3,keep=3,min_image=-1.0,min_caption=-1.0,min_direction=-1.0,dtype="bfloat16",seed=11)
