"""Pages for readers: text, tables and figures, as Markdown and as one HTML file."""
