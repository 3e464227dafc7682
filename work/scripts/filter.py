"""filter.py CLIP OUT [min_image min_caption min_direction] [--judge]: refilter out/stock/candidates."""
import sys, json, torch
from pathlib import Path
from collections import Counter
torch.set_num_threads(1)
from ip2p.clip_filter import ClipSimilarity, Similarities, best, passes
from ip2p.common.images import as_tensor
from ip2p.dataset.shards import read_pairs, write_shard, IMAGES, TEXT, NUMBERS
from ip2p.miniworld import parse, edit_kind, judge
from ip2p.miniworld.judging import valid_pair
folder, out = sys.argv[1], Path(sys.argv[2]); th = dict(zip(("min_image","min_caption","min_direction"), map(float, sys.argv[3:6])))
limit = int(sys.argv[6]) if len(sys.argv)>6 and sys.argv[6].isdigit() else 10**9
withjudge = "--judge" in sys.argv
rows = read_pairs("out/stock/candidates")[:limit]
clip = ClipSimilarity(folder, "cpu", "bfloat16")
sims = []; valid = []
for i in range(0, len(rows), 256):
    part = rows[i:i+256]
    a = as_tensor([r["original_image"] for r in part]); b = as_tensor([r["edited_image"] for r in part])
    a,b = (a+1)/2 if a.min()<0 else a, (b+1)/2 if b.min()<0 else b
    sims.append(clip(a.clamp(0,1), b.clamp(0,1), [r["original_prompt"] for r in part], [r["edited_prompt"] for r in part]))
    if withjudge:
        ra, rb = judge([r["original_image"] for r in part]), judge([r["edited_image"] for r in part])
        valid += [valid_pair(parse(r["original_prompt"]), parse(r["edited_prompt"]), x, y) for r,x,y in zip(part,ra,rb)]
sim = Similarities(*(torch.cat(x).float() for x in zip(*sims)))
kinds = [edit_kind(parse(r["original_prompt"]), parse(r["edited_prompt"])) for r in rows]
torch.save({"sim": tuple(sim), "valid": torch.tensor(valid), "kinds": kinds, "prompt":[r["original_prompt"] for r in rows]}, str(out)+".pt")
by = {}
for i,r in enumerate(rows): by.setdefault((r["original_prompt"], r["edit_prompt"]), []).append(i)
kept = []
for group in by.values():
    g = torch.tensor(group)
    kept += [group[k] for k in best(Similarities(*(x[g] for x in sim)), 2, **th)]
print("candidates", len(rows), "triplets", len(by), "kept", len(kept), "of triplets", len({rows[k]["original_prompt"] for k in kept}), Counter(kinds[k] for k in kept))
if withjudge:
    v = torch.tensor(valid); ok = passes(sim, **th)
    print("invalid before %.3f passing %.3f kept %.3f" % (1-v.float().mean(), 1-v[ok].float().mean(), 1-v[torch.tensor(kept)].float().mean()))
    for k in sorted(set(kinds)):
        m = torch.tensor([x==k for x in kinds]); mk=[i for i in kept if kinds[i]==k]
        print(f"{k:9s} n {m.sum()} pass {ok[m].float().mean():.2f} invalid before {1-v[m].float().mean():.2f} passing {1-v[m&ok].float().mean():.2f} kept {1-v[torch.tensor(mk)].float().mean() if mk else 0:.2f}")
out.mkdir(parents=True, exist_ok=True)
def plain(r, s):
    d = {n: r[n] for n in TEXT}
    # encoded bytes as they are
    for n in IMAGES:
        c = r.cell(n); c = c if isinstance(c, dict) else {"bytes": c, "path": None}
        d[n] = c
    d["seed"]=r["seed"]; d["p"]=r["p"]; d["guidance_scale"]=r["guidance_scale"]
    d |= dict(zip(("clip_sim_0","clip_sim_1","clip_sim_dir","clip_sim_image"), s))
    return d
new = [plain(rows[k], [x[k].item() for x in sim]) for k in sorted(kept)]
for i in range(0, len(new), 256): write_shard(out/f"pairs-{i//256:05d}.parquet", new[i:i+256])
