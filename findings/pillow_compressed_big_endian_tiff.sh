#!/usr/bin/env bash
# Pillow 13.0.0 reads compressed big-endian TIFF of signed or float samples with the bytes of each number swapped.
#
# Seen with Pillow 13.0.0, tifffile 2026.3.3, numpy 2.4.6: a deflate-compressed big-endian file of int16 depths
# [[1888, 801], [3565, 2000]] comes out as [[24583, 8451], [-4851, -12281]]; int32 and float32 likewise; no warning.
# The same samples uncompressed, or little-endian, or as uint16, come out right, and tifffile reads all of them.
# A depth file of such a kind gives wrong metres without a word; exits 1 when a version no longer does so.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q pillow==13.0.0 tifffile==2026.3.3 numpy==2.4.6
"$work/venv/bin/python" - <<'PY'
import io

import numpy as np
import tifffile
from PIL import Image

DEPTH_MM = np.array([[1888, 801], [3565, 2000]])


def read(dtype, byteorder, compression):
    """The samples as Pillow and as tifffile read them."""
    samples = (DEPTH_MM / 1000 if dtype == "float32" else DEPTH_MM).astype(dtype)
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, samples, photometric="minisblack", byteorder=byteorder, compression=compression)
    content = buffer.getvalue()
    assert np.array_equal(tifffile.imread(io.BytesIO(content)), samples), "tifffile reads what was written"
    return samples, np.array(Image.open(io.BytesIO(content)))


for dtype in ("uint16", "int16", "int32", "float32"):
    for byteorder in ("<", ">"):
        for compression in (None, "zlib"):
            samples, found = read(dtype, byteorder, compression)
            same = np.array_equal(found, samples)
            swapped = byteorder == ">" and compression == "zlib" and dtype != "uint16"
            print(dtype, byteorder, compression, found.tolist(), "right" if same else "WRONG")
            assert same != swapped, f"{dtype} {byteorder} {compression}: the behaviour has changed"
            if swapped:
                assert np.array_equal(found.astype(dtype).byteswap(), samples), "only the bytes are swapped"
PY
