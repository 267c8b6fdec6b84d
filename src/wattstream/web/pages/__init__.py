"""Pages for people: rendered by the engine, live over its streams, nothing from elsewhere."""

from wattstream.web.pages.routes import Pages, add_pages

__all__ = ["Pages", "add_pages"]
