"""The named mechanisms: each a function that returns a spec, in a small file that reads as its definition.

>>> import qkv
>>> qkv.mechanisms.sliding_window(2, 0)
Spec("b h i d, b h j d, b h j e -> b h i e", keep=window(2, 0))
"""

from .alibi import alibi as alibi
from .bigbird import bigbird as bigbird
from .causal import causal as causal
from .cross import cross as cross
from .differential import differential as differential
from .differential import differential_clamped as differential_clamped
from .entry import Entry as Entry
from .entry import Example as Example
from .entry import Layer as Layer
from .five_tokens import PUBLISHED as PUBLISHED
from .five_tokens import Row as Row
from .five_tokens import draw as draw
from .five_tokens import fifteen as fifteen
from .five_tokens import written as written
from .flash import flash as flash
from .grouped_query import grouped_query as grouped_query
from .latent import absorb as absorb
from .latent import latent as latent
from .latent import latent_absorbed as latent_absorbed
from .latent import latent_keys_values as latent_keys_values
from .linear import linear as linear
from .multi_head import multi_head as multi_head
from .multi_head import multi_head_projected as multi_head_projected
from .multi_query import multi_query as multi_query
from .registry import get as get
from .registry import names as names
from .relative_position_bias import relative_position_bias as relative_position_bias
from .rope import rope as rope
from .scaled_dot_product import scaled_dot_product as scaled_dot_product
from .sliding_window import sliding_window as sliding_window
