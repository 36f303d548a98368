#!/usr/bin/env bash
# Pillow 13.0.0 stretches the samples of a 16-bit PGM to 0..65535 by its header's largest value.
#
# Seen with Pillow 13.0.0: depths of 1000 and 500 mm in a PGM whose header names 10000 as the largest value come out as
# 6554 and 3277 (x 65535 / 10000); with 65535 in the header they come out as stored. For photographs this is a brightness;
# for depth it changes the unit, by a factor that differs from file to file. Exits 1 when a version no longer does so.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q pillow==13.0.0 numpy==2.4.6
"$work/venv/bin/python" - <<'PY'
import io

import numpy as np
from PIL import Image

stored = np.array([[1000, 500], [0, 900]], ">u2")
for largest, expected in ((65535, [[1000, 500], [0, 900]]), (10000, [[6554, 3277], [0, 5898]])):
    content = b"P5 2 2 %d\n" % largest + stored.tobytes()
    found = np.array(Image.open(io.BytesIO(content))).tolist()
    print(f"largest value {largest}: stored {stored.tolist()}, read {found}")
    assert found == expected, "the behaviour has changed"
PY
