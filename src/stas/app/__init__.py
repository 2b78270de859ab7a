"""The browser app: `stas app`."""
