"""Text: frozen sentence encoders, and their outputs kept on disk."""

from kinfolk.data.text.cache import EncodedTexts, encode_texts
from kinfolk.data.text.encoders import TextEncoder, TextEncoderConfig

__all__ = ["EncodedTexts", "TextEncoder", "TextEncoderConfig", "encode_texts"]
