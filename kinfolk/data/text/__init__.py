"""Text: frozen sentence encoders, and their outputs kept on disk."""

from kinfolk.data.text.cache import EncodedTexts, cache_folder, encode_texts
from kinfolk.data.text.encoders import TextEncoder, TextEncoderConfig

__all__ = ["EncodedTexts", "TextEncoder", "TextEncoderConfig", "cache_folder", "encode_texts"]
