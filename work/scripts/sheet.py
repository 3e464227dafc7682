import sys, random
from PIL import Image, ImageDraw
from ip2p.dataset.shards import read_pairs
rows=read_pairs(sys.argv[1]); random.Random(int(sys.argv[3])).shuffle(rows); rows=rows[:20]
W=Image.new("RGB",(5*400,4*250),"white"); d=ImageDraw.Draw(W)
for i,r in enumerate(rows):
    x,y=(i%5)*400,(i//5)*250
    W.paste(r["original_image"].resize((192,192)),(x,y+40)); W.paste(r["edited_image"].resize((192,192)),(x+196,y+40))
    d.text((x+2,y+2),r["original_prompt"][:62],fill="black"); d.text((x+2,y+20),r["edit_prompt"][:62],fill="red")
W.save(sys.argv[2])
