"""Words with which people ask for edits of the miniature world, beside those of captions (`parsing.NAMES`).

All are regular expressions for text in lower case; `lies.py` says by its names what each is for.
"""

# --- what things of the world are called besides ------------------------------------------------------------

_TINY = "thumb|mouse|pea|ant|coin|bug|bee|toy"

# slot -> value -> words that can only mean this value: what has the colour of a lemon is yellow.
HINTS: dict[str, dict[object, str]] = {
    "colour": {
        "red": r"tomato(es)?|cherry|cherries|strawberr(y|ies)|ketchup|blood|fire engine",
        "orange": r"carrots?|pumpkins?|oranges|apricots?",
        "yellow": r"lemons?|bananas?|sunflowers?|canary|butter|mustard",
        "green": r"as grass|limes?|peas|frogs?|moss",
        "blue": r"as the (sky|sea)|blueberr(y|ies)|jeans",
        "purple": r"plums?|grapes|lavender|aubergines?|eggplants?",
        "pink": r"flamingos?|bubble ?gum|candy ?floss|piglets?",
        "white": r"milk|chalk|a sheet|cotton wool|a ghost",
    },
    "time": {
        "day": r"sunrise|sun (comes|is|rises) up|sun (is )?(up|rising|out)|sun rise|wake up",
        "sunset": (
            r"sunsets|sun('s)? (is |be |to |nearly |about to )?(go(es|ing)? |sink(s|ing)? )?"
            r"(down|set|sets|setting|low)"
        ),
        "night": r"lights? (out|off)|dark|bedtime|camping overnight|nite|good night|asleep|stargazing",
    },
    "weather": {
        "clear": r"dry|thaw(s|ed|ing)?|melt(s|ed|ing)?|clear (up|the sky)",
        "rain": r"soak(s|ed|ing)?|bucket(s|ing)?|raindrops?|heavens open|showers?|drench(es|ed)?",
        "snow": r"snowed in|blizzard|snow flurries|snowflakes?",
    },
    "style": {
        "illustration": r"(plain|ordinary|normal|usual) picture|picture book",
        "pencil sketch": r"graphite|sketchbook|hand drawn|drawn by hand",
        "watercolour": r"watery paint|wet brush|aquarell",
        "mosaic": r"(little|tiny|small|coloured) stones|mosaik|romans",
        "comic": r"speech bubbles?|superhero",
    },
    "size": {
        "small": (
            rf"(no|not) (bigger|larger) than|(size of|big as|small as) (a|an|the|my|your) ({_TINY})|"
            r"toy \w+ size|toy size|(in|for) (a|my) pocket"
        ),
        "medium": r"(normal|ordinary|regular|average|usual) size|in between|half the size",
        "large": rf"supersize|(big|large|tall) as (a|an|the) (?!{_TINY})\w+|towering",
    },
    "extra": {"balloon": r"ballons?", "birds": r"birdies?"},
}

# Words that name a thing of the world elsewhere, but not here, and what stands there instead.
NOT_MEANT = (
    (r"time of day", ""),
    (r"\blate in the day\b", "at dusk"),
    (r"\b(middle|end|start|rest) of the (day|night|afternoon)\b", r"\2"),
    (r"\b(beach|market|birth|holi|rest|pay)[ -]?day\b", r"\1"),
    (r"^clear (?!sk|weather)|\bclear (?=the|away|up\b)", "empty "),
    (r"wet brush", "brush"),
    (r"\bpainted (?!in water)", "coloured "),
    (r"raining cats and dogs", "raining"),
    (r"\b(a )?pair of (shoes|glasses|socks|boots|gloves|wings|eyes|ears|scissors)\b", "some things"),
    (r"\b(go(es)?|going|went|sails?|sailed|at|drives?|walks?|heads?) home\b", r"\1 away"),
    (r"\bhome again\b", ""),
    (r"\b(are|is|was|has|have|had|just|only|what's|that's|ones?) left\b", r"\1 over"),
    (r"\b(one|two|three|none|any|only)( \w+)? left\b", r"\1\2 over"),
    (r"\b(not?|nothing|none)\b([^,.;]*) left\b", r"\1\2 over"),
    (r"\bleft (over|behind|us|alone|out)\b", r"went \1"),
    (r"\bright (there|now|away|behind|up|beside|next|by|over|here|on top|in|at|on)\b", r"\1"),
    (r"\b(all|that's|quite) right\b", "fine"),
    (r"\ba little(?= to\b|[,.;!?]|$)", ""),
    (r"\ba (little|tiny) (bit|less|more|smaller|bigger|larger|further|closer|taller)\b", r"a \2"),
    (r"\b(little|big) (brother|sister|guy|fellow|friend|buddy|step)\b", r"\2"),
    (r"\ba (big|huge|giant) (fan|step)\b", r"a \2"),
    (r"\b(as \w+ as) (a|the|an) (house|castle|mountain|elephant)\b", r"\1 that"),
    (r"\bcatch (\w+ )?rain\b", ""),
)

# --- how a change is asked for without the new value: what a word begins with -------------------------------

BIGGER = (
    r"bigg|large|enlarg|grow|scale (it |them )?up|blow|huge|giant|increas|expand|zoom in|gigant|inflat|tall|"
    r"up\b|more (cat|dog|rabbit|duck|owl|elephant|robot|rocket|car|boat|house|castle|tent|mushroom|teapot|"
    r"umbrella)\b"
)
SMALLER = (
    r"small|shrink|shrunk|scale (it |them )?down|tiny|little|reduc|mini|decreas|zoom out|far|less|half|"
    r"down\b|too (big|large|huge)"
)
MORE = (
    r"another|second|third|doubl|tripl|twice|twin|clone|cop[yi]|more|again|friend|one extra|brother|sister|"
    r"pair"
)
FEWER = (
    r"alone|single|only|less|fewer|remov|away|keep|leav|left|over\b|drop|delet|eras|minus|rid\b|lose|go\b|"
    r"goes|gone|sunk|sink|struck|launch|pack|short|lost|too many|sail|walk|ran\b|run|drov|drive|fl[ey]w?|"
    r"scrap|out\b|off\b|all but|take"
)
GONE = (
    r"no\b|not|never|none|dont|\w+n't|without|remov|delet|eras|drop|los[et]|rid|ditch|tak(e|en|ing)|away|off|"
    r"out|leave|disappear|vanish|go\b|goes|gone|clear|empty|stop|end\b|over|pop|pick|bye|scare|fl[ey]w?|"
    r"lower|scrap|skip|kill|hide|less|back|instead|cut|st[eo]le?|forget|pull|chuck|thaw|melt|mow|down\b|"
    r"minus|allerg|free|turn(ed|ing)? (\w+ ){0,2}off|scrub|wipe|sell|sold|froze|wilt|shoo|dismiss"
)

# --- what stands before or behind a thing that is named -----------------------------------------------------

_THE = r"( more| any| a| an| the| its| his| her| their| that| this| those| these| old| all)*$"
# "only the cat": the rest goes
ALONE = r"\b(only|just)( (draw|show|keep|leave|want|have|the|a|an|one|this|that))*$"
# "no rabbit", "take away the old flag", "the robot lost its hat"
UNWANTED = (
    r"(\bno|(?<!could )(?<!would )(?<!can )(?<!why )(?<!or )\bnot|\bwithout|remove|delete|erase|drop|"
    r"\blos[et]|\blosing|rid of|scrap|ditch|take away|take off|take out|instead of|rather than|out with|"
    r"\bnot (be|become)|\bno need for( \w+){1,3} to be|\bnot (want|need|like)|\bhate|"
    r"(tired|sick|enough) of|allergic to|\bbored? (of|by))"
) + _THE
# "the duck is gone", "the robot flew off"
DEPARTED = (
    r"^((is|are|was|has|have|must|should|can|could|may|will|just|to|simply) )*(gone|vanish\w*|disappear\w*|"
    r"go(es)? away|(flew|fly|flies|drove|drives?|walk(s|ed)?|ran|runs?|sail(s|ed)?|blew|blows?) (off|away)|"
    r"(must|has to|have to|should|can) go( now| please)?$|(must|should|can) leave$)"
)
# "and the two of them disappear"
ALL_DEPARTED = r"\b(it|him|her|them|they|both)( to| should| must)? (disappear|vanish)"
# "keep the castle on the left"
KEPT = r"\bkeep( it| the| its| his| her| their| that| this| those| as| a| an)*( \w+)?( (on|at|in) the)?$"
# "don't drop the flowers"
SPARED = (
    r"\b(not|never) (drop|lose|remove|delete|erase|forget|touch|move|leave out|take off|take away|throw away)"
) + _THE
# "take it out of the forest"
LEFT_BEHIND = (
    r"\b(out of|away from|leave|leaving|(take|move|get|bring)( \w+){1,3} from)( the| that| this| a)*$"
)
# "from the left", "not the right": a side, but not the new one
ASIDE = (
    r"\b(from|not|too far|instead of|rather than|enough of|off|out of|leave|than)"
    r"( the| on| to| in)*( far)?$"
)
SIDE_TO_SIDE = r"(?<!it )(?<!them )\b(left|right|middle|centre) to (?:the )?(left|right|middle|centre)\b"
# "too large", "not so tiny", "less big": a size, but not the new one
SIZE_MENTIONED = (
    r"\b(too|so|not|less|no|as|that|isn t|isnt|from|than|of|instead|with|was|is|bit)"
    r"( a| an| the| so| very| as)*$"
)
# "the dog is too large", "the dog is large": what the size was
IT_IS = r"\b(is|are|was|were|s)( just| a| bit| rather)*( too)?$"
IT_IS_TOO = r"\b(too|bit too)$"
ASKED = r"\b(should|ought to|must)( \w+)? be( a| an)?$"  # what the size shall be
COMPLAINT = r"((is|are|was) )?(too|enough)\b"  # "small is too small"
# "I've always wanted a giant duck"
WANTED = r"\b(want(ed|s)?|d like|d love|prefer|need|give me)( to have| to see)?( a| an| the| it)*$"
# "make it", and a size follows; "a small one"; "make it bigger"
MADE = WANTED + r"|\b(make|turn) (it|them|him|her|(the|that|this) \w+)( a)?$"
SIZED_ONE = r"\ba (small|tiny|little|big|large|huge|giant|medium) one$"
RESIZED = r"\b(bigger|smaller|larger|shrink|enlarge|inflate)\b"
SHALL_SHRINK = r"(?<!not )(?<!too )(?<!no )\b(smaller|shrink)\b(?! than)"
BIGGER_AND_SMALLER = (
    r"(?<!not )(?<!too )\b(bigger|larger)\b(?! than).*(?<!not )\bsmaller|"
    r"(?<!not )(?<!too )\bsmaller\b(?! than).*(?<!not )\b(bigger|larger)"
)
# "shrink the", "move that": what comes next shall be changed
DONE_TO = (
    r"\b(paint|dye|colou?r|repaint|recolou?r|shrink|enlarge|grow|scale up|scale down|blow up|inflate|move|"
    r"push|shift|slide|swap|replace|turn|change|trade|exchange|transform|make|raise|rise|drag)"
    r" (the|that|this|those|these|its|his|her|their)$"
)
# "should be", "is to become": what comes before shall be changed
CHANGED = (
    r"^((should|could|must|might|ought to|has to|have to|needs? to|want(s)? to|to|really|all) )*"
    r"(be|become|becomes|turn|turns|grow|shrink|get)\b"
    r"(?! (nice|nicer|better|good|great|fine|lovely|cool|fun))"
)
# "don't make it": what comes next shall not be
NOT_MADE = r"\b(not|never) (make|want|have|need|turn)( it| them| into| to)*( a| an)?$"
ALL = r"\b(remove|delete|drop|lose|get rid of|take away) (all|every|both)\b( of)?( the| these| those)*$"
# "let it be a white": what comes next shall be there instead of what was
MADE_OF_IT = r"\b(let (it|him|her|them) be|(make|turn) (it|him|her|them)( into)?)( a| an| the| \w+)*$"

# --- what comes, and what takes the place of something ------------------------------------------------------

ADDED = (
    r"\btoo\b(?! (big|large|small|tiny|huge|many|much|few))|\balso\b|as well\b|\badd\b|next to|beside|"
    r"alongside|\bjoin|company|along\b"
)
STRONGLY_ADDED = (
    r"(next to|beside|alongside) (it|him|her|them)\b|\bjoin|for company|"
    r"\b(put|add|include)( in)? (a|an|another)\b"
)
NEXT_TO = (
    r"\b((next to|beside|alongside)( the| that| this| a)?|just like (the|that|this)|"
    r"(into|inside|behind|in front of|on top of) (the|that|this)|"
    r"(?<!bother )(?<!wrong )(?<!it )(?<!done )with (the|that|this))$"
)
REPLACED = (
    r"instead|\binto\b|\bswap|\breplac|\btrade|\bexchang|rather than|turn (it|him|her|them|the)|"
    r"\bbecome"
)
SWAPPED = r"\b(swap(ped)?|replaced?|trade|exchange)\b"
PLACES_CHANGED = (
    r"\b(swap|switch|exchange|trade)|change (places|sides)|other way (a)?round|where the \w+ (is|stands)"
)

# --- of what it is said -------------------------------------------------------------------------------------

PRONOUN = (
    r"\b(its?|it's|him|his|her|them|their|they|he|she|ones?|things?|everything|everyone|all|both|this|that|"
    r"these|those|you)\b"
)
BOTH = r"\b(both|all of them|each of them|the two of them|the pair of them)\b"
# They are in the pictures, but nobody can ask for another colour, size or side of theirs.
SCENERY = r"\b(the|a|some|those) (sun|moon|trees?|clouds?|sky|skies|hills?|waves?|sand|road|walls?)\b"
# A part of an object has no colour of its own here. The whole skin of it has: "make its feathers red".
PARTS = (
    r"collars?|bows?|bow tie|wheels?|roofs?|doors?|windows?|scarf|scarves|ears?|nose|eyes?|beak|tail|paws?|"
    r"feet|legs?|shirt|jacket|socks?|boots?|shoes?|stripes?|spots?|dots?|polka dots|ribbon|sails?|handle|lid|"
    r"spout|wings?|glasses|belt|buttons?|hair"
)
# They are in no picture of this world, unless it is said what something is like.
FOREIGN = (
    r"\b(?<!like )(?<!as )(?<!not )(?<!than )(?<!for )(?<!of )(a|an|the|two|three|no|some)( \w+)? "
    r"(bears?|fox(es)?|eagles?|horses?|lions?|tigers?|monkeys?|cows?|pigs?|sheep|snakes?|dragons?|wolf|wolves|"
    r"bus(es)?|trains?|planes?|bicycles?|chickens?|goats?|turtles?|penguins?|unicorns?)\b"
)
OF_AN_EXTRA = r"^(\w+ )?(hats?|balloons?|flags?|flowers?|birds?)\b"

# --- numbers ------------------------------------------------------------------------------------------------

NUMBERS = {"one": 1, "another": 1, "two": 2, "three": 3, "pair": 2, "trio": 3}
_N = r"\b(one|two|three)\b"
_OF = r"( of (the|them|these|those)( (two|three))?)?( \w+)?"  # "one of the three cats"
# It is no number that is wanted: "only one more", "keep one out".
_NOT_SO = (
    r"(?!( \w+)? (more|less|fewer|extra|again|of|out|goes|go|walks?|leaves|away|off|for each|too many|thing|"
    r"by one))"
)
_LEAVES = (
    r"(go|goes|gone|can go|must go|should go|has to go|walk(s|ed)? off|walk(s|ed)? away|leaves|has left|"
    r"is gone|gets? (shot|lost|sold|eaten)|(has )?(sunk|sinks)|sail(s|ed)? (off|away|home)|"
    r"fl(ew|y|ies) (off|away)|r[au]ns? (off|away)|dr(ive|ives|ove) (off|away)|can be struck|"
    r"falls? (out|over|off)|vanish(es)?|disappears?)\b"
)
ONE_OF_THEM = r"\bone of (the|them|these|those)\b"
# Not "a tiny one", "this one".
COUNTED = rf"(?<!a )(?<!the )(?<!this )(?<!that )(?<!no )(?<!any )(?<!some )(?<!y )(?<!l )(?<!ge ){_N}"
# In each, the first group is a number. So many come ...
COME = (
    rf"{_N}( \w+)?( \w+)? (more|extra|again)\b",
    r"\b(another)\b(?! (two|three|one's))",
    r"\banother (two|three)\b",
)
# ... so many go ...
GO = (
    rf"{_N}( \w+)? (less|fewer)\b",
    rf"\bminus {_N}",
    r"\b(?:drop|remove|delete|erase|take away|lose|get rid of|ditch|pop|subtract) (?:the |these |those )?"
    + _N,
    rf"\bleave {_N}( \w+)? out\b",
    rf"(?<!all but ){_N}{_OF} {_LEAVES}",
    rf"{_N}( \w+)? too many",
)
# ... so many are there in the end ...
STAY = (
    rf"\b(?:only|just|keep|leave|leaving|so|make it|make that|down to) (?:only |just |the |have )*{_N}"
    + _NOT_SO,
    rf"\ball but {_N}",
    rf"{_N}( \w+)? only\b",
    rf"{_N}{_OF} (?:is|are) (?:just )?(?:fine|enough|plenty|over)\b",
    rf"{_N}( \w+)? (?:will|would|could|can|should) do\b",
    rf"{_N}( \w+)? (?:instead of|rather than) (?:one|two|three)\b",
    r"\ba (pair|trio)\b",
)
# ... or were there at first.
WERE = (
    rf"\b(?:\w+er|more|sense) than {_N}(?! (more|of))",
    rf"(?:instead of|rather than) {_N}(?! (more|of))",
    rf"\bfrom {_N} to\b",
    rf"\bof the {_N}\b",
    rf"\b(?:these|those) {_N}\b",
)

# --- words that are glued together: what they are made of, and what only looks like it ----------------------

SHORT_WORDS = set("make turn it the to and on in put with give add let be please now".split())
WHOLE_WORDS = set("nearby doghouse birdhouse houseboat snowball treehouse toward today together".split())
