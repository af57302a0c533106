"""Pictures within a page, which then needs no other file."""

from __future__ import annotations

import base64
import io

from PIL import Image

QUALITY = 80


def data_uri(content: bytes, kind: str) -> str:
    """Return a picture as the address of itself.

    Args:
        content: of a file.
        kind: of the picture, as ``png`` or ``webp``.
    """
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def webp(picture: Image.Image) -> bytes:
    """Return a picture as the content of a WebP file."""
    buffer = io.BytesIO()
    picture.save(buffer, "WEBP", quality=QUALITY)
    return buffer.getvalue()
