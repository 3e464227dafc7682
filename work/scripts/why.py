import sys, torch
from collections import Counter
torch.set_num_threads(1)
from ip2p.dataset.shards import read_pairs
from ip2p.miniworld import parse, edit_kind, judge
from ip2p.miniworld.judging import valid_pair, edit_success, concerned, preservation
rows=read_pairs(sys.argv[1])
ra=judge([r["original_image"] for r in rows]); rb=judge([r["edited_image"] for r in rows])
c={}
for r,x,y in zip(rows,ra,rb):
    a,b=parse(r["original_prompt"]),parse(r["edited_prompt"]); k=edit_kind(a,b)
    if valid_pair(a,b,x,y): continue
    con=concerned(a,b)
    c.setdefault(k,Counter())
    w=[]
    for n,v in a.items():
        if n not in con and x.get(n)!=v: w.append("first is not "+n)
    if not edit_success(a,b,y): w.append("no success")
    w+= [n+" flips" for n in x if n not in con and x[n]!=y[n]]
    c[k].update(w or ["first lacks the asked"])
for k,v in c.items(): print(k, v.most_common(8))
