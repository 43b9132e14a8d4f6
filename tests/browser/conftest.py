from tests.browser.chromium import axe, chromium
from tests.browser.playground_portal import engine, gateway, portal, raw_engine, visit

__all__ = ["axe", "chromium", "engine", "gateway", "portal", "raw_engine", "visit"]
