import random, torch
from ip2p.clip_filter import ClipSimilarity
from ip2p.common.images import as_tensor
from ip2p.miniworld import random_scene, edit, render
from ip2p.miniworld.scene import EXTRAS
from ip2p.miniworld.captions import caption_pair
for folder in ("data/models/mini-clip","out/stock/mini-clip"):
    c=ClipSimilarity(folder); out={}
    for x in EXTRAS:
        A,B,ta,tb=[],[],[],[]
        s=10**9
        while len(A)<60:
            s+=1; a=random_scene(s)
            if x in a.extras: continue
            try: b=edit(a,add=x)
            except ValueError: continue
            p=caption_pair(a,b,random.Random(s)); A.append(render(a,128));B.append(render(b,128));ta.append(p[0]);tb.append(p[1])
        f=lambda v: (lambda t: (t+1)/2 if t.min()<0 else t)(as_tensor(v)).clamp(0,1)
        sim=c(f(A),f(B),ta,tb); out[x]=(round(sim.sim_direction.mean().item(),2), round((sim.sim_direction>.3).float().mean().item(),2))
    print(folder,out)
