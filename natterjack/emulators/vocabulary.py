"""The vocabulary of the tone code: a prime number of distinct English words."""

from __future__ import annotations

from typing import Final

_WORDS = """
able about above acorn across actor after again agree ahead album alive alone amber angle
animal ankle answer apple apron arrow artist autumn avenue awake baker balance balloon
banana basket beach beard become before begin behind below bench berry better between
bicycle bishop blanket blossom border bottle branch bread bridge bright brother bucket
button cabin camera candle carbon carpet castle cattle cedar center chair cherry chicken
circle citizen clever climate clock cloud coast coffee color comfort copper corner cotton
country cousin cradle cream cricket crowd crystal curtain dancer danger daughter decide
desert diamond dinner doctor dolphin donkey double dragon drawer driver eager early earth
east echo eight elbow eleven empty engine evening every eagle fabric factory falcon family
farmer father feather fence fiddle field finger flower follow forest forty fountain fourteen
fox friend frozen garden garlic gentle giant ginger glass golden grape gravel green guitar
hammer happy harbor harvest hazel heavy helmet hill history hollow honey horse hotel hour
hundred hungry iron island ivory jacket jelly jewel journey juice jungle kettle kitchen
kitten ladder lake lantern leather lemon letter library lily listen little lobster lonely
lucky lunch magnet mango maple market meadow medal melon memory mercury middle mirror monday
money morning mother mountain music napkin narrow needle nephew nickel noble north nothing
number nutmeg oak ocean october olive onion orange orchard otter oven oyster paddle palace
panda paper parrot pasture pearl pencil pepper piano picture pigeon pillow planet pocket
potato powder prince pumpkin puzzle quarter queen quick quiet rabbit radio rainbow rapid
raven ribbon river rocket rose saddle salmon sandal saturn school season seven shadow silver
simple timber tomato tower travel tunnel turtle umbrella uncle valley velvet village violet
sister spider spring squirrel
"""

VOCABULARY: Final[tuple[str, ...]] = tuple(_WORDS.split())
assert len(set(VOCABULARY)) == 283
