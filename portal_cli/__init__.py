"""`portal`: the portal from a terminal, over the network, with a URL and a key.

It stands alone: Python, requests and rich; nothing of the portal's own code. So it reads its environment itself.

    arguments.py ──> one function per command (login, engines, logs, chat, keys, usage, doctor)
                         │                                     │
                     portal.py: requests, errors by status   screen.py: tables, JSON, clean text
"""
