"""Writes pages of text, tables and figures as Markdown and as one HTML file."""
