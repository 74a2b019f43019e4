"""Fill numba's on-disk cache: `python -m stream.precompile`, once after installation.

So a consumer's first events do not wait for the compiler.
"""

import numpy as np

from stream.codec import encode_packed
from stream.decoded_columns import decode_columns
from stream.event import Event

if __name__ == "__main__":
    one = Event(event_id="e", ts_ms=1, user_id=1, item_id=1, kind="click")
    decode_columns([encode_packed([one])], 0, np.zeros(1, np.int32), np.zeros(1, np.int64))
